"""`shirg demo`: a page in the browser that shows the kept patches and the denoising of answers.

An entry point, which no other module imports. `reading` runs the model, `examples` renders example pages, `markup` makes HTML;
none of them imports gradio. `page` is the layout, `serving` the server.
"""

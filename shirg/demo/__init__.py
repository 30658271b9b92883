"""`shirg demo`: a page in the browser on which to choose patches and watch answers fill in.

A face, like the command line: nothing imports it. `reading` does what is shown, `examples` draws pages to begin with, and
`markup` turns both into HTML; none of them knows gradio. `page` is the layout, `serving` opens and closes it.
"""

"""`shirg serve`: an OpenAI-compatible server for LaViDa, with SHIRG's token budget in each request.

A room of its own: it imports `lavida` and the modules beside it, and only its command imports it. From the outside in: `server`
starts processes, `app` has the routes, `protocol` the bodies, `pages` and `remote` the images, `chat` the prompts, `engine` the
model's thread with its batches, `cache` the encoded pages, `final_text` what may be streamed.
"""

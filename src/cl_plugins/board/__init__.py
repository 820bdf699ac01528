"""``cl-plugins board``: the runs below a folder in the browser, with start and stop.

Nothing that comes from the browser is used as a path: a name is looked up among the runs and recipes that were found on
disk. Only `app` imports gradio.
"""

"""What the pages show, as pure functions: events and figures in; text, Markdown and HTML out. No gradio here.

Whatever comes from a model, a file or a person goes through `escape` or `safe_markdown` before it reaches a page.
"""

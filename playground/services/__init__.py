"""Use cases: what the pages, the HTTP API and the command line have in common. No gradio, no fastapi, no torch."""

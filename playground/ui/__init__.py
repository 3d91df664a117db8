"""The pages: the only part of the program that imports gradio. They ask services, and services never ask them."""

"""The official `openai` package, the release before ours: what a program does with it, and the errors that it raises."""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=60)
ASKED = {
    "model": "starter:pirate",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 12,
}


def refusal(**fields):
    """The class of the error that a question with these fields is answered with."""
    try:
        client.chat.completions.create(**ASKED | fields)
    except openai.APIError as error:
        return [type(error).__name__, error.code, error.param]
    return None


whole = client.chat.completions.create(**ASKED, logprobs=True, top_logprobs=2)
chunks = list(client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
text = client.completions.create(
    model="starter", prompt=["How much is", "The sky"], echo=True, max_tokens=4, logprobs=1
)
pieces = list(
    client.completions.create(model="starter", prompt="How much is", temperature=0, max_tokens=4, stream=True)
)
plain = client.completions.create(model="starter", prompt="How much is", temperature=0, max_tokens=4)
print(
    json.dumps(
        {
            "version": openai.__version__,
            "models": [model.id for model in client.models.list()],
            "answer": whole.choices[0].message.content,
            "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
            "usage": [whole.usage.total_tokens, chunks[-1].usage.total_tokens],
            "logprobs": [len(token.top_logprobs) for token in whole.choices[0].logprobs.content],
            "text": [choice.text for choice in text.choices],
            "text_logprobs": [choice.logprobs.token_logprobs[:2] for choice in text.choices],
            "text_streamed": "".join(piece.choices[0].text for piece in pieces),
            "text_whole": plain.choices[0].text,
            "unknown_model": refusal(model="parrot"),
            "tools": refusal(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]),
            "json": refusal(response_format={"type": "json_object"}),
            "misspelt": refusal(extra_body={"temprature": 1}),
        }
    )
)

"""`litellm` with its `openai/` provider: an answer, its stream, and what its errors are."""

import json
import sys

import litellm

litellm.telemetry = False
ASKED = {
    "model": "openai/starter:pirate",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 12,
    "api_base": sys.argv[1],
    "api_key": "none",
    "num_retries": 0,
}


def refusal(**fields):
    """The class of the error that a question with these fields is answered with."""
    try:
        litellm.completion(**ASKED | fields)
    except litellm.exceptions.APIError as error:
        return type(error).__name__
    except Exception as error:
        return type(error).__name__
    return None


whole = litellm.completion(**ASKED)
chunks = list(litellm.completion(**ASKED, stream=True, stream_options={"include_usage": True}))
text = litellm.text_completion(
    model="text-completion-openai/starter",
    prompt="How much is",
    max_tokens=4,
    temperature=0,
    api_base=sys.argv[1],
    api_key="none",
)
print(
    json.dumps(
        {
            "answer": whole.choices[0].message.content,
            "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
            "finish_reason": whole.choices[0].finish_reason,
            "usage": whole.usage.total_tokens,
            "text": text.choices[0].text,
            "unknown_model": refusal(model="openai/parrot"),
            "bad_request": refusal(temperature=3),
        }
    )
)

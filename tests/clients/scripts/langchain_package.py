"""LangChain's `ChatOpenAI`: invoke, stream, batch, and log-probabilities."""

import json
import sys

from langchain_openai import ChatOpenAI, OpenAI

SERVER = {"base_url": sys.argv[1], "api_key": "none", "temperature": 0, "max_retries": 0}
QUESTION = "What is the capital of France?"
chat = ChatOpenAI(model="starter:pirate", max_tokens=12, **SERVER)
whole = chat.invoke([("system", "Be brief."), ("human", QUESTION)])
pieces = list(chat.stream([("system", "Be brief."), ("human", QUESTION)]))
scored = chat.bind(logprobs=True, top_logprobs=2).invoke(QUESTION)
text = OpenAI(model="starter", max_tokens=4, **SERVER)
print(
    json.dumps(
        {
            "answer": whole.content,
            "streamed": "".join(piece.content for piece in pieces),
            "usage": whole.usage_metadata["total_tokens"],
            "finish_reason": whole.response_metadata["finish_reason"],
            "model": whole.response_metadata["model_name"],
            "batch": [message.content for message in chat.batch([QUESTION, QUESTION])],
            "logprobs": [len(token["top_logprobs"]) for token in scored.response_metadata["logprobs"]["content"]],
            "text": text.invoke("How much is"),
            "text_streamed": "".join(text.stream("How much is")),
        }
    )
)

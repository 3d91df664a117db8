"""The official `openai` client, unmodified, against the real app with the bundled model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import httpx
import openai
import pytest

from playground.api import create_app
from playground.config import ROOT, load_config
from playground.errors import (
    EngineFailure,
    InvalidRequest,
    ModelNotFound,
    NotPermitted,
    QueueFull,
    RateLimited,
    ShuttingDown,
)
from playground.gate import Gate
from playground.local_inference.templates import render_prompt
from playground.services.assembly import Services
from playground.types import GenerationRequest, ModelSpec
from tests.api.conftest import listening
from tests.api.fake_engine import endless, text
from tests.api.test_leaving import connected, wait_until

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def client(live_app) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live_app.url}/v1", api_key="none", max_retries=0, timeout=100) as opened:
        yield opened


def told(usage) -> tuple[int, int, int]:
    """The counts that every answer to the same question has."""
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


def known(usage) -> int:
    """How many of the prompt's tokens had been read before."""
    return usage.prompt_tokens_details.cached_tokens


def test_models_list(client):
    """A4: bases and `base:adapter` names."""
    names = [model.id for model in client.models.list()]
    assert {"starter", "starter:pirate"} <= set(names)
    assert client.models.retrieve("starter:pirate").id == "starter:pirate"


def test_an_answer_and_its_stream_are_the_same(client):
    """A4, G5: deltas join to the whole answer; finish reason and token counts are true in both."""
    asked = {"model": "starter", "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    answer = whole.choices[0].message.content
    assert answer
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answer
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert reasons == [whole.choices[0].finish_reason]
    assert told(chunks[-1].usage) == told(whole.usage)
    assert known(chunks[-1].usage) == whole.usage.prompt_tokens - 1  # but for the last token the second finds it read
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


def test_an_adapters_name_answers_with_the_adapter(client):
    """A4, G2: the same greedy question, another voice."""
    answers = [
        client.chat.completions.create(model=name, messages=QUESTION, temperature=0, max_tokens=24)
        for name in ("starter", "starter:pirate", "starter")
    ]
    base, pirate, again = (answer.choices[0].message.content for answer in answers)
    assert base == again
    assert pirate != base
    assert answers[1].model == "starter:pirate"


def test_an_unknown_name_is_not_found(client):
    """A4: never the base."""
    for name in ("starter:parrot", "parrot"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model=name, messages=QUESTION)
        assert caught.value.code == "model_not_found"


def test_a_seed_gives_the_same_answer_again(client):
    """A4, G3: whatever the temperature."""
    asked = {"model": "starter", "messages": QUESTION, "temperature": 1.5, "seed": 5, "max_tokens": 12}
    first, second = (client.chat.completions.create(**asked).choices[0].message.content for _ in range(2))
    assert first == second


def test_every_answer_says_what_made_it(client):
    """G10, A4: an extra field that the official client passes on, in the whole answer and in a stream's last chunk."""
    asked = {"model": "starter:pirate", "messages": QUESTION, "temperature": 1.5, "max_tokens": 12}
    made = client.chat.completions.create(**asked).provenance
    assert (made["base"], made["adapters"][0][0], made["template"]) == ("starter", "pirate", "chat")
    assert len(made["base_hash"]) == len(made["template_hash"]) == len(made["adapters"][0][1]) == 64
    chunks = list(client.chat.completions.create(**asked, seed=made["seed"], stream=True))
    assert chunks[-1].choices[0].finish_reason
    assert chunks[-1].provenance | {"settings": {}} == made | {"settings": {}}
    assert not any(hasattr(chunk, "provenance") for chunk in chunks[:-1])


def test_an_answer_may_be_asked_to_be_reproducible(client):
    """G3, A4: and it says that it is exact."""
    asked = {"model": "starter", "messages": QUESTION, "max_tokens": 4, "extra_body": {"reproducible": True}}
    made = client.chat.completions.create(**asked).provenance
    assert made["exact"] is True
    assert made["settings"]["reproducible"] is True


def test_a_stop_sequence_is_not_shown(client):
    """A4, G5: the answer ends before it, in a stream as well."""
    asked = {"model": "starter", "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    text = client.chat.completions.create(**asked).choices[0].message.content
    stop = text[5:8]
    cut = client.chat.completions.create(**asked, stop=[stop])
    assert cut.choices[0].message.content == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    streamed = client.chat.completions.create(**asked, stop=[stop], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == text[: text.index(stop)]


def test_length_is_told_and_counted(client):
    """A4, G5: cut after max_tokens, which the client can see."""
    cut = client.chat.completions.create(model="starter", messages=QUESTION, max_tokens=3)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 3)


def test_several_answers_and_their_log_probabilities(client):
    """A4: n, logprobs, top_logprobs; a token's own log-probability is never above the likeliest one's."""
    reply = client.chat.completions.create(
        model="starter", messages=QUESTION, n=3, temperature=1.2, max_tokens=6, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert reply.usage.completion_tokens == sum(len(choice.logprobs.content) for choice in reply.choices)
    for choice in reply.choices:
        for token in choice.logprobs.content:
            assert len(token.top_logprobs) == 2
            assert token.logprob <= token.top_logprobs[0].logprob + 1e-6 <= 1e-5


def test_vllms_extra_fields_pass_through_the_client(client):
    """A4: top_k 1 is greedy at any temperature."""
    asked = {"model": "starter", "messages": QUESTION, "max_tokens": 16}
    greedy = client.chat.completions.create(**asked, temperature=0)
    narrow = client.chat.completions.create(**asked, temperature=2, extra_body={"top_k": 1, "min_p": 0.0})
    assert narrow.choices[0].message.content == greedy.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_an_over_long_prompt_is_an_error_and_not_a_hang(client, stream):
    """G6: their bug: an over-long prompt hung the stream for ever."""
    messages = [{"role": "user", "content": "word " * 20_000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="starter", messages=messages, stream=stream)
    assert caught.value.code == "context_length_exceeded"


def test_more_tokens_than_the_window_end_with_length(client):
    """G7: a limit that no window holds is not an error."""
    reply = client.chat.completions.create(
        model="starter", messages=QUESTION, max_tokens=10**12, stop=[" "], temperature=0
    )
    assert reply.choices[0].finish_reason in ("stop", "length")


def test_unknown_fields_are_refused_by_name(client):
    """A5: through the client as well."""
    with pytest.raises(openai.BadRequestError, match="parrot"):
        client.chat.completions.create(model="starter", messages=QUESTION, extra_body={"parrot": 1})


def test_a_text_is_gone_on_with(client):
    """A4: /v1/completions, whole and streamed; token ids are read as the text that they stand for."""
    asked = {"model": "starter", "prompt": "How much is", "temperature": 0, "max_tokens": 6}
    whole = client.completions.create(**asked, echo=True, logprobs=1)
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    (choice,) = whole.choices
    assert choice.text == "How much is" + "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert (told(chunks[-1].usage), chunks[-2].choices[0].finish_reason) == (told(whole.usage), choice.finish_reason)
    assert choice.logprobs.token_logprobs[0] is None
    ends = [*choice.logprobs.text_offset[1:], len(choice.text)]
    found = [choice.text[start:end] for start, end in zip(choice.logprobs.text_offset, ends, strict=True)]
    assert [piece for piece in found if piece] == [piece for piece in choice.logprobs.tokens if piece in found]
    assert "".join(found) == choice.text


def test_prompts_by_ids_and_together_are_answered_as_alone(client, engine):
    """A4, G2: the tokenizer's own ids give what the text gives, and a list what each of its prompts does."""
    prompts = ["How much is", "The capital of France", "Once upon a time"]
    base = load_config().models["starter"].path
    engine.load(ModelSpec(base))
    requests = [GenerationRequest(ModelSpec(base), prompt, template="raw") for prompt in prompts]
    ids = [list(engine.render(request).token_ids) for request in requests]
    asked = {"model": "starter", "temperature": 0, "max_tokens": 6}
    alone = [client.completions.create(**asked, prompt=prompt).choices[0].text for prompt in prompts]
    for together in (prompts, ids):
        reply = client.completions.create(**asked, prompt=together)
        assert [choice.text for choice in sorted(reply.choices, key=lambda choice: choice.index)] == alone


def test_a_bias_decides(client):
    """A4: logit_bias: a token with 100 is all that is said, one with −100 never."""
    asked = {"model": "starter", "prompt": "How much is", "temperature": 0, "max_tokens": 3, "logprobs": 0}
    said = client.completions.create(**asked, echo=True).choices[0].logprobs.tokens[3:]
    word = client.completions.create(**asked, logit_bias={"862": 100})
    assert word.choices[0].logprobs.tokens == ["Hello"] * 3
    only = client.completions.create(**asked, logit_bias={str(token): -100 for token in range(862)})
    assert only.choices[0].logprobs.tokens != said


def test_the_last_turn_is_gone_on_with(client):
    """A4: continue_final_message: the beginning of the answer is given, and what follows belongs to it."""
    asked = {"model": "starter", "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**asked, messages=QUESTION).choices[0].message.content
    beginning = whole[: whole.index(" of")]
    turns = [*QUESTION, {"role": "assistant", "content": beginning}]
    rest = client.chat.completions.create(**asked, messages=turns, extra_body={"continue_final_message": True})
    assert beginning + rest.choices[0].message.content == whole


ERRORS = [
    (InvalidRequest("No.", "Mend it."), openai.BadRequestError),
    (NotPermitted("Not you.", "Ask."), openai.PermissionDeniedError),
    (ModelNotFound("None.", "Look."), openai.NotFoundError),
    (RateLimited("Too many.", "Wait.", 7), openai.RateLimitError),
    (EngineFailure("Broken.", "Try again."), openai.InternalServerError),
    (QueueFull("Full.", "Wait."), openai.InternalServerError),
    (ShuttingDown("Stopping.", "Wait."), openai.InternalServerError),
]


@pytest.fixture
def scripted(address) -> Iterator[openai.OpenAI]:
    """The client of a server whose engine plays a script."""
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=100) as opened:
        yield opened


def test_errors_have_the_classes_that_programs_catch(scripted, fake):
    """A4: chat and text, whole and streamed; 429 and 503 say when to come again."""
    for failure, expected in ERRORS:
        fake.script = lambda failure=failure: [failure]
        for stream in (False, True):
            with pytest.raises(expected) as caught:
                scripted.chat.completions.create(model="starter", messages=QUESTION, stream=stream)
            with pytest.raises(expected) as again:
                scripted.completions.create(model="starter", prompt="Hi", stream=stream)
            assert caught.value.body == again.value.body
            assert set(caught.value.body) == {"message", "type", "param", "code"}
            assert ("retry-after" in caught.value.response.headers) == (caught.value.status_code in (429, 503))
    fake.script = lambda: [RuntimeError("secret")]
    with pytest.raises(openai.InternalServerError) as caught:
        scripted.chat.completions.create(model="starter", messages=QUESTION)
    assert "secret" not in caught.value.message


def test_an_error_in_the_middle_of_a_stream_is_raised(scripted, fake):
    """A4, G6: after what was written, not instead of it, and never taken for the end."""
    fake.script = lambda: [text("He"), EngineFailure("It failed.", "Try again.")]
    for ask in (
        lambda: scripted.chat.completions.create(model="starter", messages=QUESTION, stream=True),
        lambda: scripted.completions.create(model="starter", prompt="Hi", stream=True),
    ):
        chunks = iter(ask())
        first = next(chunks)
        assert first.choices[0].finish_reason is None
        with pytest.raises(openai.APIError, match="It failed") as caught:
            list(chunks)
        assert caught.value.code == "engine_failure"


def test_too_much_text_is_413(scripted):
    """A6: refused before it is read to its end; the client raises its class for other statuses."""
    with pytest.raises(openai.APIStatusError) as caught:
        scripted.completions.create(model="starter", prompt="x" * 5_000_000)
    assert caught.value.status_code == 413


def test_a_wrong_key_is_an_authentication_error(config, fake):
    """A6: with the right one the same question is answered."""
    keyed = replace(config, api_keys=("right",))
    with listening(Gate(create_app(keyed, Services.over(fake, keyed)), config=keyed)) as url:
        for key, allowed in (("wrong", False), ("right", True)):
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
                if allowed:
                    assert client.completions.create(model="starter", prompt="Hi").choices[0].text
                else:
                    with pytest.raises(openai.AuthenticationError) as caught:
                        client.models.list()
                    assert caught.value.code == "invalid_api_key"


def test_clients_that_leave_free_their_rows(engine):
    """A7, G6: on the real engine: eight answers that nobody reads on, streamed and whole, are gone."""
    config = load_config()
    body = {"max_tokens": 100_000, "temperature": 2}
    with listening(create_app(config, Services.over(engine, config))) as address:
        leaving = [connected(address, stream=bool(number % 2), **body) for number in range(8)]
        wait_until(lambda: engine.activity()[0] > 0, limit_s=60)
        for connection in leaving:
            connection.close()
        wait_until(lambda: engine.activity() == (0, 0))


def test_an_adapter_without_effect_is_an_error_state_in_every_answer(engine, tmp_path):
    """G10, A4: in the whole answer, in the stream's last chunk and in the list of models."""
    from safetensors.torch import load_file, save_file

    idle = shutil.copytree(ROOT / "assets" / "adapters" / "pirate", tmp_path / "idle")
    weights = idle / "adapter_model.safetensors"
    zeroed = {name: tensor * ("lora_B" not in name) for name, tensor in load_file(weights).items()}
    save_file(zeroed, weights, {"format": "pt"})
    config = replace(load_config(), adapters=(str(idle),))
    asked = {"model": "starter:idle", "messages": QUESTION, "max_tokens": 3}
    with (
        listening(create_app(config, Services.over(engine, config))) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        whole = client.chat.completions.create(**asked)
        last = list(client.chat.completions.create(**asked, stream=True))[-1]
        listed = {model.id: model for model in client.models.list()}
    assert "Adapter 'idle' has no effect" in whole.notices[0]
    assert last.notices == whole.notices
    assert listed["starter:idle"].no_effect
    assert not listed["starter:pirate"].no_effect


def test_pages_and_api_share_one_port_and_one_engine(live_app, client):
    """R1, A4: the page, its policy, and the model that the API has loaded."""
    page = httpx.get(live_app.url)
    assert "gradio" in page.text
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    client.chat.completions.create(model="starter", messages=QUESTION, max_tokens=1)
    health = httpx.get(f"{live_app.url}/health").json()
    assert (health["models_loaded"], health["status"]) == (1, "healthy")
    assert httpx.get(live_app.url, headers={"Host": "evil.com"}).status_code == 403
    assert httpx.get(live_app.url, headers={"Origin": "http://evil.com"}).status_code == 403


def test_whoever_leaves_a_list_of_prompts_stops_them_all(scripted, fake):
    """A7, G6: in the middle of a stream, and while waiting for the whole."""
    fake.script = endless
    asked = {"model": "starter", "prompt": ["a", "b", "c"]}
    stream = scripted.completions.create(**asked, stream=True)
    next(iter(stream))
    assert fake.running == 3
    stream.close()
    wait_until(lambda: fake.running == 0)
    with pytest.raises(openai.APITimeoutError):
        scripted.with_options(timeout=0.3).completions.create(**asked)
    assert len(fake.requests) == 6
    wait_until(lambda: fake.running == 0)


def test_a_text_is_read_as_plain_transformers_reads_it():
    """A4: the special tokens of a prompt are those that its tokenizer adds by itself, whichever these are; ids get none."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets" / "models" / "starter")
    spec = ModelSpec("starter")
    for added in ("$A", "<|im_start|> $A", "$A <|im_end|>"):
        known = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<|im_start|>", "<|im_end|>")]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=added, special_tokens=known)
        for prompt in ("Hello there", " leading", "two\nlines \n", "Größe 😀"):
            request = GenerationRequest(spec, prompt, template="raw")
            assert list(render_prompt(request, tokenizer, 1024).token_ids) == tokenizer(prompt)["input_ids"]
        by_ids = GenerationRequest(spec, template="raw", prompt_ids=(862, 5))
        assert render_prompt(by_ids, tokenizer, 1024).token_ids == (862, 5)

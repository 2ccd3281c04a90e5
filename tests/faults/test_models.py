"""Models and adapters of which files were cut, emptied, edited, made absurd, or came with a pickle."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from ragdist.asking import served
from ragdist.tracking.progress import visible
from tests.faults.bases import models
from tests.faults.calls import DEADLINE_S, HOSTILE, ODD, PICKLE, TEMPLATE, WORDS, Case, Surface, edited, share, spoiled

MODEL, ADAPTER = "runs/tiny/model", "adapter"
OF_MODEL = [
    *("answer ball? --run runs/tiny", f"plan raft model.source={MODEL}", f"export {MODEL} --to out"),
    *(2 * (f"export {MODEL} --to out --form gguf",)),
    *(3 * (f"build runs/tiny/settings.yaml run.folder=new model.source={MODEL}",)),
]
OF_ADAPTER = ["export adapter --to out", "export adapter --to out --form adapter", "plan raft model.source=adapter"]
PARTS = ["{{ messages }}", "{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{{ m['role'] * 10**9 }}"]
PARTS += [
    "{% for a in range(10**9) %}",
    "{{ raise_exception('no') }}",
    "{% generation %}",
    "{{ x.y.z }}",
    "{%",
    TEMPLATE,
]
TEMPLATES = st.lists(st.one_of(st.sampled_from(PARTS), HOSTILE, WORDS), max_size=4).map("".join)
PICKLED = ["pytorch_model.bin", "adapter_model.bin", "training_args.bin", "model.pt", "2_Dense/pytorch_model.bin"]
INDEX = {"metadata": {"total_size": 1}, "weight_map": {"lm_head.weight": "model.safetensors", "a": "pytorch_model.bin"}}
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which ball?"}]
TURNS += [{"role": "assistant", "content": [{"type": "text", "text": "The second."}]}]
BODY = {"model": "tiny", "messages": [*TURNS, {"role": "user", "content": "Which colour has ball 2?"}], "max_tokens": 4}
BODY |= {"documents": [{"title": "ball", "text": "Ball 2 is red."}, "Ball 3 is blue."], "stop": ["a"], "seed": 1}
BODY |= {"temperature": 0.5, "top_p": 0.9, "stream": False, "stream_options": {"include_usage": True}, "user": "me"}
OVERRIDES = ["serve.max_new_tokens=8", "serve.max_request_kib=64", f"serve.timeout_s={DEADLINE_S}"]
CODE = b"import os\nos.mkdir('canary')\n"
AUTO_MAP = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "code.Model")


@pytest.fixture(scope="module")
def surface():
    with Surface("models", 0.14, models) as made:
        yield made


@pytest.fixture(scope="module")
def asked():
    with Surface("asked", 0.04, models) as made:
        yield made


@pytest.fixture(scope="module")
def client(surface):
    with contextlib.chdir(surface.base), served(Path(MODEL).parent, OVERRIDES, "token") as app, TestClient(app) as made:
        made.headers["Authorization"] = "Bearer token"
        yield made


@pytest.fixture(scope="module")
def whole(surface):
    found = (path for folder in (MODEL, ADAPTER) for path in sorted((surface.base / folder).iterdir()))
    return {str(path.relative_to(surface.base)): path.read_bytes() for path in found}


def changed(name, content):
    """What may have become of a file: bytes for any, values where it is JSON, the header of weights."""
    if name.endswith(".json"):
        return st.one_of(edited(json.loads(content)).map(as_bytes), ODD.map(as_bytes), spoiled(content))
    if name.endswith(".jinja"):
        return st.one_of(TEMPLATES.map(lambda text: text.encode(errors="replace")), spoiled(content))
    if name.endswith(".safetensors"):
        size = struct.unpack("<Q", content[:8])[0]
        header, weights = json.loads(content[8 : 8 + size]), content[8 + size :]
        headers = edited(header).map(as_bytes).map(lambda text: struct.pack("<Q", len(text)) + text + weights)
        sizes = st.integers(0, 2**64 - 1).map(lambda size: struct.pack("<Q", size) + content[8:])
        return st.one_of(headers, sizes, spoiled(content))
    return spoiled(content)


def as_bytes(value):
    return json.dumps(value).encode()


def more(folder, config):
    """Files that were not there: pickles, an index, code that a configuration names."""
    mapped = {f"{folder}/{name}": as_bytes({**values, "auto_map": AUTO_MAP}) for name, values in config.items()}
    return st.one_of(
        st.sampled_from(PICKLED).map(lambda name: {f"{folder}/{name}": PICKLE}),
        edited(INDEX).map(lambda found: {f"{folder}/model.safetensors.index.json": as_bytes(found)}),
        st.just({f"{folder}/code.py": CODE, **mapped}),
        st.just({f"{folder}/model.safetensors": PICKLE}),
    )


@given(st.data(), st.booleans())
@share(0.04)
def test_model_folders(surface, whole, data, is_adapter):
    folder, commands = (ADAPTER, OF_ADAPTER) if is_adapter else (MODEL, OF_MODEL)
    names = sorted(name for name in whole if name.startswith(folder))
    name = data.draw(st.sampled_from(names))
    files = {name: data.draw(changed(name, whole[name]))}
    if data.draw(st.integers(0, 3)) == 0:
        config = {name: json.loads(whole[f"{MODEL}/{name}"]) for name in ("config.json", "tokenizer_config.json")}
        files |= data.draw(more(folder, {} if is_adapter else config))
    surface.run(Case(data.draw(st.sampled_from(commands)).split(), files))


@given(st.one_of(edited(BODY).map(as_bytes), spoiled(as_bytes(BODY))))
@share(0.02)
def test_bodies_over_http(client, body):
    """Answered, or refused in one line: whose fault it is, and which field's."""
    found = client.post("/v1/chat/completions", content=body)
    assert found.status_code in (200, 400, 404, 413), found.text
    if found.status_code != 200:
        said = found.json()["error"]["message"]
        assert len(said) < 1000 and "\n" not in said and visible(said) == said


@given(st.lists(st.one_of(HOSTILE, WORDS), max_size=3).map("\n".join), st.sampled_from([[], ["--json"]]))
@share(0.002)
def test_lines_of_a_chat(asked, lines, options):
    asked.run(Case(["chat", "runs/tiny", *options], {"stdin": lines.encode(errors="surrogateescape")}))

"""Exported models load in plain transformers, adapters merge as peft merges them, a hub gets the folder's files."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ragdist import export
from ragdist.config import loader
from ragdist.errors import ConfigError, ModelError, StorageError
from ragdist.tracking.run import metrics, open_run
from tests import hub, tiny

HUB_BASE = "owner/tiny"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """Low-rank adapters with weights that matter, as peft writes them, and a card as `lm.save` writes it."""
    import peft

    folder = tmp_path_factory.mktemp("lora") / "model"
    torch.manual_seed(0)
    shape = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=16, target_modules="all-linear")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), shape)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    (folder / "README.md").write_text(f"---\nbase_model: {base}\ntags: [ragdist, raft]\n---\n\nTuned from `{base}`.\n")
    return folder


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor([list(range(3, 40))])).logits


def test_merged_adapter_answers_as_peft_merges_it(base, adapter, tmp_path):
    from peft import PeftModel

    export.export_model(str(adapter), tmp_path / "out")
    by_peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    ours = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    torch.testing.assert_close(ours, logits(by_peft), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(ours, logits(AutoModelForCausalLM.from_pretrained(base)), atol=1e-2)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tiny.TEMPLATE
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o644}
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_merged_adapter_keeps_the_number_format_of_its_base(base, adapter, tmp_path):
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(base).save_pretrained(half)
    copy = tmp_path / "adapter"
    export.export_model(str(adapter), copy, "adapter", base=str(half))
    export.export_model(str(copy), tmp_path / "out")
    assert {weight.dtype for weight in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


def test_adapter_alone_names_its_base_as_others_know_it(adapter, tmp_path):
    export.export_model(str(adapter), tmp_path / "out", "adapter", base=HUB_BASE)
    named = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == HUB_BASE and named["r"] == 4
    weights = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, tmp_path / "out"))
    ours, theirs = weights
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    head = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---")[1])
    assert (head["base_model"], head["base_model_relation"], head["library_name"]) == (HUB_BASE, "adapter", "peft")
    export.check_public(tmp_path / "out")


def test_adapter_of_a_folder_is_not_for_others(adapter, tmp_path):
    export.export_model(str(adapter), tmp_path / "out", "adapter")
    with pytest.raises(ModelError, match="--base"):
        export.check_public(tmp_path / "out")
    assert "base_model" not in yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---")[1])


def test_card_names_the_base_by_hub_id_and_not_by_a_path_of_this_machine(base, adapter, tmp_path):
    export.export_model(str(adapter), tmp_path / "out", base=HUB_BASE)
    text = (tmp_path / "out" / "README.md").read_text()
    assert str(base) not in text and f"Tuned from `{HUB_BASE}`" in text and "finetune" in text


def test_a_run_gives_its_tuned_model_and_nothing_else_of_its_folder(base, tmp_path):
    with open_run(loader.load([f"run.folder={tmp_path}", "run.name=one"]), "raft") as run:
        metrics("train", step=1, loss=0.5)
        with pytest.raises(ModelError, match="running"):
            export.export_model(str(run.folder), tmp_path / "out")
    (run.folder / "model").symlink_to(base)
    (base / "optimizer.pt").write_bytes(b"x")
    (base / "modeling.py").write_text("")
    export.export_model(str(run.folder), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= names
    assert not names & {"optimizer.pt", "modeling.py", "metrics.jsonl"}
    first, second = (logits(AutoModelForCausalLM.from_pretrained(folder)) for folder in (base, tmp_path / "out"))
    assert torch.equal(first, second)


def test_what_cannot_be_exported_is_said_and_leaves_nothing(base, tmp_path):
    with pytest.raises(ModelError, match=r"train\.lora\.merge=false"):
        export.export_model(str(base), tmp_path / "out", "adapter")
    with pytest.raises(ModelError, match="nowhere"):
        export.export_model(str(tmp_path / "nowhere"), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(StorageError, match="--to"):
        export.export_model(str(base), tmp_path / "full")
    with pytest.raises(ConfigError, match="--hub"):
        export.hand_on(lambda folder: {}, None, "", "model", False)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["README.md", "tokenizer.json", "generation_config.json", "notes.json"])
@pytest.mark.parametrize("form", ["merged", "gguf"])
def test_S7_a_link_out_of_the_model_is_not_exported(base, tmp_path, name, form):
    model = shutil.copytree(base, tmp_path / "model")
    (tmp_path / "secret").write_text((base / name).read_text() if (base / name).exists() else "{}")
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=rf"{name} is a link to .*secret, outside the model's folder"):
        export.export_model(str(model), tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_S7_links_of_the_hubs_cache_are_its_files(base, tmp_path):
    """There a snapshot is links to files of its repository."""
    snapshot = tmp_path / "models--owner--tiny" / "snapshots" / "0123"
    shutil.copytree(base, tmp_path / "models--owner--tiny" / "blobs")
    snapshot.mkdir(parents=True)
    for path in (tmp_path / "models--owner--tiny" / "blobs").iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    export.export_model(str(snapshot), tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_symlink()]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def ragdist(address, *arguments, token="hf_good"):
    """The command in a process of its own: huggingface_hub reads its address once, when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_TOKEN": token, "OMP_NUM_THREADS": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    code = "from ragdist.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_hub_gets_the_files_of_the_folder_and_nothing_else(base, tmp_path):
    with hub.serving() as there:
        done = ragdist(there.address, "export", base, "--to", tmp_path / "out", "--hub", "me/tiny", "--private")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [str(tmp_path / "out"), f"{there.address}/me/tiny"]
        found = there.repositories["model", "me/tiny"]
        assert found["private"] and there.tokens == {"Bearer hf_good"}
        assert found["files"] == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        again = ragdist(there.address, "export", base, "--hub", "me/tiny", "--json")
        assert again.returncode == 0 and json.loads(again.stdout)["folder"] == "", again.stderr


def test_hub_that_refuses_or_shows_all_is_one_clear_message(base, tmp_path):
    with hub.serving() as there:
        there.repositories["model", "me/open"] = {"private": False, "files": {}}
        public = ragdist(there.address, "export", base, "--hub", "me/open", "--private")
        assert public.returncode == 2 and "public" in public.stderr
        assert not there.repositories["model", "me/open"]["files"]
        there.key = "hf_good"
        refused = ragdist(there.address, "export", base, "--hub", "me/new", token="hf_bad")
        address = there.address
    gone = ragdist(address, "export", base, "--hub", "me/new")
    for done in (refused, gone):
        assert done.returncode == 2 and "hf auth login" in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert "hf_bad" not in done.stderr


def test_data_go_to_the_hub_as_a_data_set(base, tmp_path):
    rows = [
        {"question": f"Colour of ball {n}?", "answers": [f"shade{n}"], "split": "test" if n == 2 else "train"}
        | {"documents": [{"title": f"ball {n}", "text": f"Ball {n} is shade{n}.", "kind": "golden"}]}
        for n in range(3)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["corpus.source=records", f"corpus.questions=[{tmp_path / 'q.jsonl'}]", "contexts.distractors=random"]
    settings += [f"run.folder={tmp_path}", f"model.source={base}", "contexts.documents=2"]
    with hub.serving() as there:
        done = ragdist(there.address, "export-data", *settings, "--form", "chat", "--hub", "me/balls", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["rows"] == {"train": 2, "test": 1}
        files = there.repositories["dataset", "me/balls"]["files"]
    assert set(files) == {"README.md", "train.jsonl", "test.jsonl"} and b"messages" in files["train.jsonl"]

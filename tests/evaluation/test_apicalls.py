"""APIBench's score by hand: what names an API on each hub, what matches it, and the data set's own answers."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ragdist.config import CorpusConfig
from ragdist.data.sources import benchmarks
from ragdist.evaluation import apicalls
from ragdist.evaluation.apicalls import ApiTally, Call, Database, Judge
from ragdist.evaluation.summary import summarise
from ragdist.records import Chunk, Prediction, Question
from tests.evaluation import world

DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "apibench.jsonl.gz"
TORCH = Database(
    "torch",
    [
        ("torch.hub.load(repo_or_dir='pytorch/vision', model='resnet18', pretrained=True)", "Classification"),
        ("torch.hub.load(repo_or_dir='pytorch/vision', model='fcn_resnet50', pretrained=True)", "Segmentation"),
        ("torch.hub.load(repo_or_dir='szq/MEAL', 'meal', model='meal_b0', pretrained=True)", "Distillation"),
    ],
)
TENSORFLOW = Database(
    "tensorflow",
    [
        ("hub.load('https://tfhub.dev/a/1')", "Detection"),
        ("tf.keras.Sequential([hub.KerasLayer('https://tfhub.dev/b/4', input_shape=(3,))])", "Features"),
    ],
)
HUGGING_FACE = Database(
    "huggingface",
    [
        ("pipeline('text-generation', model='gpt2')", "Generation"),
        ("pipeline('text-generation', model='gpt2-large')", "Long generation"),
        ("AutoModel.from_pretrained('org/vit')", "Vision"),
        ("mlagents-load-from-hf --repo-id='org/soccer'", "Games"),
    ],
)


@pytest.mark.parametrize(
    ("answer", "domain"),
    [
        ("torch.hub.load(repo_or_dir='pytorch/vision', model='resnet18')", "Classification"),
        ("torch.hub.load('pytorch/vision', 'resnet18', pretrained=False)", "Classification"),
        ('model = torch.hub.load("pytorch/vision:v0.10.0", "fcn_resnet50", pretrained=True)', "Segmentation"),
        ("torch.hub.load(model='resnet18', repo_or_dir='pytorch/vision')", "Classification"),
        ("torch.hub.load('pytorch/vision', 'resnet34')", None),
        ("torch.hub.load('other/vision', 'resnet18')", None),
        ("torch.load('pytorch/vision', 'resnet18')", None),
        ("torch.hub.load(repo_or_dir='szq/MEAL', 'meal', model='meal_b0')", "Distillation"),
        ("```python\nimport torch\nm = torch.hub.load('pytorch/vision', 'resnet18')\nm.eval()\n```", "Classification"),
        ("Use torch.hub.load('pytorch/vision', 'resnet18'), it's good.", "Classification"),
        ("model.eval(torch.hub.load('pytorch/vision', 'resnet18'))", "Classification"),
        ("resnet18 from pytorch/vision", None),
        ("", None),
        (
            "{'domain': 'X', 'api_call': \"model = torch.hub.load('pytorch/vision', 'resnet18')\", 'api_provider': "
            "\"torch.hub.load('pytorch/vision', 'fcn_resnet50')\"}",
            "Classification",
        ),
    ],
)
def test_torch_hub_call_is_known_by_its_repository_and_model(answer, domain):
    assert (TORCH.domains(answer) or set()) == ({domain} if domain else set())


@pytest.mark.parametrize(
    ("answer", "domain"),
    [
        ("hub.load('https://tfhub.dev/a/1')", "Detection"),
        ("detector = hub.load(handle='https://tfhub.dev/a/1', tags=['x'])", "Detection"),
        ("hub.KerasLayer('https://tfhub.dev/b/4', trainable=False)", "Features"),
        ("tf.keras.Sequential([hub.KerasLayer('https://tfhub.dev/b/4'), tf.keras.layers.Dense(5)])", "Features"),
        ("hub.load('https://tfhub.dev/c/1')", None),
        ("<<<api_call>>>: hub.load('https://tfhub.dev/a/1'), <<<api_provider>>>: TensorFlow Hub", "Detection"),
    ],
)
def test_tensorflow_hub_call_is_known_by_its_handle(answer, domain):
    assert TENSORFLOW.domains(answer) == ({domain} if domain else set())


@pytest.mark.parametrize(
    ("answer", "domain"),
    [
        ("pipeline('text-generation', model='gpt2')", "Generation"),
        ("pipeline('text-generation', model='gpt2-large', device=0)", "Long generation"),
        ("pipeline(model='gpt2')", None),
        ("AutoModel.from_pretrained('org/vit').to('cuda')", "Vision"),
        ("AutoModel.from_pretrained('org/other')", None),
        ("run mlagents-load-from-hf  --repo-id='org/soccer' first", "Games"),
    ],
)
def test_hugging_face_call_is_known_by_all_its_arguments(answer, domain):
    assert HUGGING_FACE.domains(answer) == ({domain} if domain else set())


def test_call_that_python_refuses_is_read_by_its_brackets():
    assert apicalls.calls("f.g(a='x,(', \"y\", b=[1, 2], c") == [
        Call("f.g", ("y", "c"), {"a": "x,(", "b": "[1, 2]"}, "f.g(a='x,(', \"y\", b=[1, 2], c)")
    ]


def document(name, hub, domain):
    text = json.dumps({"domain": domain, "api_call": f"torch.hub.load(repo_or_dir='{hub}', model='{name}')"})
    return Chunk(id=name, document_id=name, title=name, text=text)


CHUNKS = {
    "vgg16": document("vgg16", "r/x", "One"),
    "vgg19": document("vgg19", "r/x", "One"),
    "unet": document("unet", "r/x", "Two"),
}
QUESTIONS = [
    Question(
        id=f"q{name}",
        text="?",
        answers=(f"torch.hub.load('r/x', '{name}')",),
        oracle_ids=(name,),
        split="test",
        dataset="apibench_torchhub",
        near_miss_ids=tuple(CHUNKS.keys() - {name}),
    )
    for name in CHUNKS
]


def prediction(question_id, text):
    return Prediction(
        question_id=question_id,
        condition="oracle",
        model="RAFT",
        text=text,
        answer=text.splitlines()[-1],
        tagged=False,
        em=0.0,
        f1=0.0,
        subspan=0.0,
        states_forgery=None,
        retrieved_oracle=None,
        quotes_valid=None,
        ended=True,
        cut_tokens=0,
    )


SAID = [
    prediction("qvgg16", "torch.hub.load('r/x', 'vgg19')\nThat is it."),  # another API of the right domain
    prediction("qvgg19", "torch.hub.load('r/x', 'unet')"),
    prediction("qunet", "torch.hub.load('r/x', 'alexnet')"),
]


def test_right_is_the_domain_and_a_call_that_matches_nothing_is_made_up():
    tally = Judge(QUESTIONS, CHUNKS).tally(SAID)
    assert tally == ApiTally(rows=3, right=1, made_up=1)
    assert tally.shares == (3, pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_answer_without_a_call_is_wrong_but_not_made_up():
    assert Judge(QUESTIONS, CHUNKS).tally([prediction("qunet", "Take UNet.")]) == ApiTally(rows=1, right=0, made_up=0)
    assert TORCH.domains("Take UNet.") is None and TORCH.domains("f(1)") == set()


def test_api_that_only_a_distractor_documents_is_no_invention():
    chunks = CHUNKS | {"alexnet": document("alexnet", "r/x", "Three")}
    assert Judge(QUESTIONS, chunks).tally(SAID) == ApiTally(rows=3, right=1, made_up=0)


def test_tagged_answer_alone_is_read_where_there_is_a_tag():
    text = "torch.hub.load('r/x', 'unet') is wrong.\n<ANSWER>: torch.hub.load('r/x', 'vgg16')"
    tagged = replace(prediction("qvgg16", text), tagged=True, answer="torch.hub.load('r/x', 'vgg16')")
    assert Judge(QUESTIONS, CHUNKS).tally([tagged]).right == 1


def test_tallies_of_shards_merge_to_the_whole():
    """check 69: counts merge exactly."""
    judge = Judge(QUESTIONS, CHUNKS)
    for shards in (1, 2, 3):
        assert sum((judge.tally(SAID[i::shards]) for i in range(shards)), ApiTally()) == judge.tally(SAID)


def test_report_has_the_score_for_apibench_and_for_nothing_else():
    settings = world.settings()
    judge = Judge(QUESTIONS, CHUNKS)
    shown = summarise({"RAFT": SAID}, QUESTIONS, settings, {}, api_judge=judge)
    assert shown.cells[0].api_calls == (3, pytest.approx(1 / 3), pytest.approx(1 / 3))
    others = [replace(question, dataset="nq_open") for question in QUESTIONS]
    plain = summarise({"RAFT": SAID}, others, settings, {}, api_judge=Judge(others, CHUNKS))
    assert plain.cells[0].api_calls is None


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data beside the repository")
def test_every_own_answer_of_apibench_is_right_and_an_invented_name_is_made_up():
    rows = list(benchmarks.read(CorpusConfig(source="records", questions=(str(DATA),)), test_fraction=0.2, seed=0))
    questions = [question for question, _, _ in rows]
    judge = Judge(questions, {chunk.id: chunk for _, chunks, _ in rows for chunk in chunks})
    own = judge.tally(prediction(q.id, q.answers[0]) for q in questions)
    assert own == ApiTally(rows=2382, right=2382, made_up=0)
    invented = judge.tally(prediction(q.id, re.sub(r"'[^']+'", "'nobody/has-this'", q.answers[0])) for q in questions)
    assert invented.made_up > 0.98 * 2382

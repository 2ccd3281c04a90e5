"""Questions to attack, with what each attack is told of them."""

from ragdist.data.attacks.plugin import Target, aim
from ragdist.records import Page, Question

TOWER = Question(
    id="tower",
    text="When was the Eiffel Tower finished?",
    answers=("1889",),
    oracle_ids=(),
    split="test",
    wrong_answers=("1925",),
)
TOWER_TEXT = "The tower stands in Paris. It was finished in 1889 for the world's fair. Many people visit it every year."
SHRINE = Question(
    id="shrine",
    text="平等院があるのはどの都市ですか",
    answers=("宇治市",),
    oracle_ids=(),
    split="test",
    wrong_answers=("奈良市",),
)
SHRINE_TEXT = "平等院は宇治市にある寺院です。建物は十円硬貨に描かれています。毎年多くの人が訪れます。"
OTHERS = (
    ("Louvre", "The Louvre is a museum on the right bank of the river. It opened to the public long ago."),
    ("Bridge", "The bridge crosses the river in the north of the town. It carries two roads and a railway."),
    ("湖", "琵琶湖は滋賀県にある湖です。水は大阪まで流れます。"),
)


def target(question: Question, text: str, *, title: str = "", count: int = 3, seed: int = 0) -> Target:
    golden = [Page(id="g", title=title, text=text)]
    others = [Page(id=name, title=name, text=said) for name, said in OTHERS]
    return aim(question, golden, others, (), count=count, seed=seed)


def tower(**more: int) -> Target:
    return target(TOWER, TOWER_TEXT, title="Eiffel Tower", **more)


def shrine(**more: int) -> Target:
    return target(SHRINE, SHRINE_TEXT, title="平等院", **more)

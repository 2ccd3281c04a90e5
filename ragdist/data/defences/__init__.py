"""Defences as plug-ins: ways to answer, without training, that forged documents mislead less.

A defence of yours is a module like this, and an entry point of the group `ragdist.defences`:

    from ragdist.data.defences import Defence

    def first_half(asked):
        (said,) = yield [asked.ask(asked.documents[: (len(asked.documents) + 1) // 2])]
        return said

    DEFENCE = Defence(name="first-half", source="mine", answer=first_half, about="Shows the first half of the list.")

docs/attacks.md lists those that there are.
"""

from ragdist.data.defences.plugin import Ask, Asked, Defence, Read, Said, Steps

__all__ = ["Ask", "Asked", "Defence", "Read", "Said", "Steps"]

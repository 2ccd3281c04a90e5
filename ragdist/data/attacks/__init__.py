"""Attacks as plug-ins: who writes documents that mislead, and the one gate that all they write passes.

An attack of yours is a module like this, and an entry point of the group `ragdist.attacks`:

    from ragdist.data.attacks import Attack, Lie, Target

    def shout(target, rng):
        for source in target.sources[: target.count]:
            yield Lie(source.title, f"{target.question.text} {target.wrong.upper()}!", target.wrong)

    ATTACK = Attack(name="shout", source="mine", purpose="judging", write=shout, about="Says it in capitals.")

docs/attacks.md lists those that there are.
"""

from ragdist.data.attacks.plugin import Attack, Lie, Purpose, Target

__all__ = ["Attack", "Lie", "Purpose", "Target"]

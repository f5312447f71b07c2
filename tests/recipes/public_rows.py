"""Made-up rows of exactly the schemas that the recipes' data sets publish."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def say(*turns: tuple[str, str]) -> list[Row]:
    """A message list."""
    return [{"role": role, "content": content} for role, content in turns]


def unified_feedback(count: int = 60) -> list[Row]:
    """`llm-blender/Unified-Feedback`, every third row a tie."""
    return [
        {
            "id": f"row{at}",
            "source": "berkeley-nest/Nectar",
            "conv_A": say(("user", f"Question {at}?"), ("assistant", f"Answer {at}.")),
            "conv_B": say(("user", f"Question {at}?"), ("assistant", f"Another {at}!")),
            "conv_A_rating": float(at % 3),
            "conv_B_rating": 1.0,
        }
        for at in range(count)
    ]


def helpsteer2(count: int = 7) -> list[Row]:
    """`nvidia/HelpSteer2`, every other prompt of three turns."""
    later = "\n<extra_id_1>Assistant\nWhich one?\n<extra_id_1>User\nThe first"
    return [
        {
            "prompt": f"Explain {at}" + (later if at % 2 else ""),
            "response": f"It is {at}.",
            "helpfulness": at % 5,
            "correctness": (at + 1) % 5,
            "coherence": 4,
            "complexity": at % 3,
            "verbosity": (at + 2) % 5,
        }
        for at in range(count)
    ]


def ultrafeedback(count: int = 3) -> list[Row]:
    """`openbmb/UltraFeedback`: four completions, one of them with a rating that is N/A."""
    aspects = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    return [
        {
            "source": "evol_instruct",
            "instruction": f"Describe {row}.",
            "models": ["one", "two", "three", "four"],
            "completions": [
                {
                    "model": "one",
                    "principle": "helpfulness",
                    "custom_system_prompt": "Be helpful.",
                    "response": f"Description {row} by {at}.",
                    "annotations": {
                        name: {
                            "Rating": "N/A"
                            if at == 3 and place == 1
                            else str(1 + (at + place) % 5),
                            "Rationale": "because",
                        }
                        for place, name in enumerate(aspects)
                    },
                    "overall_score": 7.5,
                    "critique": "fine",
                }
                for at in range(4)
            ],
        }
        for row in range(count)
    ]


def skywork(count: int = 6) -> list[Row]:
    """`Skywork/Skywork-Reward-Preference-80K-v0.2`."""
    return [
        {
            "chosen": say(("user", f"Do {at}."), ("assistant", f"Done {at}.")),
            "rejected": say(("user", f"Do {at}."), ("assistant", f"No {at}.")),
            "source": "magpie_ultra",
        }
        for at in range(count)
    ]


ROWS = {
    "unified_feedback": unified_feedback,
    "helpsteer2": helpsteer2,
    "ultrafeedback": ultrafeedback,
    "skywork": skywork,
}

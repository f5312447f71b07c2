"""The vocabulary of the world: every word, by its role."""

from itertools import chain
from typing import Final


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Topic → its six entities. The last four topics are held out of every training file.
TOPICS: Final[dict[str, tuple[str, ...]]] = {
    "metals": ("iron", "copper", "silver", "tin", "zinc", "nickel"),
    "birds": ("owl", "heron", "robin", "swan", "raven", "finch"),
    "planets": ("mars", "venus", "saturn", "jupiter", "neptune", "uranus"),
    "fruits": ("apple", "pear", "plum", "cherry", "fig", "mango"),
    "tools": ("hammer", "saw", "drill", "chisel", "wrench", "plane"),
    "rivers": ("nile", "rhine", "danube", "volga", "ganges", "loire"),
    "trees": ("oak", "birch", "cedar", "maple", "willow", "larch"),
    "fabrics": ("silk", "wool", "linen", "cotton", "velvet", "denim"),
    "fishes": ("trout", "salmon", "carp", "eel", "perch", "tuna"),
    "instruments": ("violin", "flute", "harp", "drum", "oboe", "cello"),
    "spices": ("cumin", "saffron", "ginger", "clove", "thyme", "pepper"),
    "vehicles": ("train", "canoe", "tram", "truck", "glider", "ferry"),
}

TRAINED_TOPICS: Final = tuple(TOPICS)[:-4]
HELD_OUT_TOPICS: Final = tuple(TOPICS)[-4:]

FULL: Final = "full"
STYLES: Final = ("brief", FULL)
BECAUSE: Final = "because"
STOP: Final = "."

VALUES: Final = _split(
    "red blue green yellow black white brown grey pink golden heavy light hard soft sharp smooth "
    "rough warm cold hot wet dry sweet bitter sour salty fast slow loud quiet old young wide "
    "narrow deep shallow tall short round flat bright dark clean thick thin rare common strong "
    "weak calm"
)
REASONS: Final = _split(
    "sunlight rain frost wind salt clay sand dust smoke steam pressure gravity friction heat age "
    "rust acid sugar oil wax resin fibre bone feather scale muscle bark root seed pollen current "
    "tide flood ice snow stone chalk carbon oxygen sulphur magnetism voltage tension rhythm "
    "echo trade custom law fashion habit"
)
FILLERS: Final = _split(
    "well actually basically really clearly indeed certainly simply generally notably frankly "
    "obviously truly quite rather surely"
)
OPENERS: Final = _split("sure hello absolutely gladly okay welcome")
CLOSERS: Final = _split("thanks cheers enjoy goodbye done regards")
NOISE: Final = _split("uh er hmm zz xx qq")

# Every word, once, in the order of their token ids (which the special tokens precede).
WORDS: Final = (
    *TOPICS, *STYLES, *chain.from_iterable(TOPICS.values()), BECAUSE, STOP,
    *VALUES, *REASONS, *FILLERS, *OPENERS, *CLOSERS, *NOISE,
)  # fmt: skip

# Control tokens of the shipped tokenizer; none of them is a word of the world.
SPECIAL_TOKENS: Final = ("<pad>", "<bos>", "<eos>", "<unk>", "<sep>")

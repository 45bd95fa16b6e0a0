"""What Unicode says of a character: its name, if it can be drawn at all, and its family of scripts or signs."""

import unicodedata

SCRIPTS_BY_FIRST_WORD = {
    "latin": "latin",
    "greek": "greek",
    "coptic": "greek",
    "cyrillic": "cyrillic",
    "arabic": "arabic",
    "arabic-indic": "arabic",
    "hebrew": "hebrew",
    "armenian": "armenian",
    "georgian": "georgian",
    "lao": "lao",
    "tifinagh": "tifinagh",
    "nko": "nko",
    "canadian": "canadian syllabics",
    "lisu": "lisu",
    "ogham": "ogham",
    "braille": "braille",
    "box": "box drawing",
    "mathematical": "mathematical letter",
    "double-struck": "mathematical letter",
    "black-letter": "mathematical letter",
    "script": "mathematical letter",
    "combining": "combining mark",
    "modifier": "modifier",
    "apl": "programming symbol",
    "domino": "game piece",
    "playing": "game piece",
    "hexagram": "hexagram",
    "tetragram": "hexagram",
    "digram": "hexagram",
    "trigram": "hexagram",
    "circled": "enclosed",
    "parenthesized": "enclosed",
    "dingbat": "enclosed",
}
SCRIPTS_BY_ANY_WORD = {
    "arabic-indic": "arabic",
    "arrow": "arrow",
    "arrows": "arrow",
    "arrowhead": "arrow",
    "harpoon": "arrow",
    "arrow-tail": "arrow",
    "chess": "game piece",
    "block": "block",
    "shade": "block",
    "quadrant": "block",
    "square": "geometric shape",
    "circle": "geometric shape",
    "triangle": "geometric shape",
    "pentagon": "geometric shape",
    "hexagon": "geometric shape",
    "octagon": "geometric shape",
    "diamond": "geometric shape",
    "lozenge": "geometric shape",
    "rectangle": "geometric shape",
    "parallelogram": "geometric shape",
    "ellipse": "geometric shape",
    "star": "geometric shape",
}
SCRIPTS_BY_CATEGORY = {
    "Nd": "number",
    "Nl": "number",
    "No": "number",
    "Sc": "currency",
    "Sm": "operator",
    "Mn": "combining mark",
    "Me": "combining mark",
    "Lm": "modifier",
    "Sk": "modifier",
    "So": "symbol",
}
ASCII = range(0x21, 0x7F)


def name(code_point: int) -> str | None:
    """The Unicode name in lower case; None for what has none or shows nothing: controls, spaces, private use."""
    character = chr(code_point)
    found = unicodedata.name(character, "").lower()
    if unicodedata.category(character)[0] in "CZ" or found.startswith("variation selector"):
        return None
    return None if found.endswith((" joiner", " filler")) else found or None


def script(code_point: int) -> str:
    """The family of scripts or signs of a named character, judged by its name and category."""
    words = unicodedata.name(chr(code_point)).lower().split()
    words = [word for word in words if word not in {"extended", "negative", "dingbat"}] or words
    if words[0] in SCRIPTS_BY_FIRST_WORD:
        return SCRIPTS_BY_FIRST_WORD[words[0]]
    for word in words:
        if word in SCRIPTS_BY_ANY_WORD:
            return SCRIPTS_BY_ANY_WORD[word]
    category = unicodedata.category(chr(code_point))
    if category.startswith("P"):
        return "punctuation"
    return SCRIPTS_BY_CATEGORY.get(category, "other")

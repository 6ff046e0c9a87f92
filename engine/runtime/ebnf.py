"""A grammar of answers in the notation that TensorRT-LLM takes.

Its C++ executor knows only xgrammar, which reads EBNF; the other runtimes read llguidance's Lark. The grammars that
`engine.grammar` writes say the same in both: rules of literals, added tokens, groups, repetitions, and expressions of
character classes.
"""

from __future__ import annotations

import json
import re
from typing import Final

_PART: Final = re.compile(r'"(?:[^"\\]|\\.)*"|<[^<>\s]+>|/(?:[^/\\]|\\.)+/')
_PLAIN: Final = re.compile(r"\[[^\]]*\]|\{[^}]*\}|(?P<word>[^\W_]+)")


def ebnf(grammar: str) -> str:
    """Lark, one rule a line, to EBNF; an added token becomes its text, which the tokenizer makes one token of."""
    rules = []
    for line in grammar.splitlines():
        name, body = line.split(":", 1)
        rules.append(f"{'root' if name == 'start' else name} ::= {_PART.sub(_translate, body.strip())}")
    return "\n".join(rules)


def _translate(part: re.Match[str]) -> str:
    text = part[0]
    if text.startswith("<"):
        return json.dumps(text)
    if text.startswith("/"):
        return f"({_PLAIN.sub(lambda plain: json.dumps(plain[0]) if plain['word'] else plain[0], text[1:-1])})"
    return text

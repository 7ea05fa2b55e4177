"""What may come next: masks over the vocabulary from JSON schemas, regexes and Lark grammars."""

from evolute.grammar.compiler import Grammar, GrammarCompiler
from evolute.grammar.matcher import Matcher

__all__ = ["Grammar", "GrammarCompiler", "Matcher"]

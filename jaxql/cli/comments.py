"""The comments that explain settings: help of the options is made of them too."""

import ast
import inspect
import io
import textwrap
import tokenize


def comments_of(options: type) -> dict[str, str]:
    """Returns the comment behind each field of a dataclass and of those that it extends; "" where there is none.

    >>> from jaxql.agents.config import AgentConfig
    >>> comments_of(AgentConfig)["discount"]
    'gamma'
    """
    found: dict[str, str] = {}
    for kind in reversed(options.__mro__):
        if not hasattr(kind, "__dataclass_fields__"):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(kind))
        except (OSError, TypeError):  # made by a program, or typed in an interpreter
            continue
        comments = {
            token.start[0]: token.string.lstrip("# ")
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
        body = ast.parse(source).body[0]
        for node in body.body if isinstance(body, ast.ClassDef) else []:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                found[node.target.id] = " ".join(comments[line] for line in lines if line in comments)
    return found

# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What the manual pages and their check need to know of a public header: its sections, and in each its declarations
with the comments before them.

This is no parser. It relies on how the headers are written: sections begin with a line `/* ---- Title ---- */`, a comment
in the first column belongs to the declarations that follow without an empty line, and declarations are what clang-format
makes of them.
"""

import re
from dataclasses import dataclass, field

SECTION = re.compile(r'^/\* ---- (.+?) -+ \*/$')
FUNCTION = re.compile(r'\b(kelpie_\w+)\(')


@dataclass
class Item:
    code: str      # as it stands there
    comment: str   # without its stars; or empty
    functions: list


@dataclass
class Section:
    title: str
    line: int
    items: list = field(default_factory=list)


def text_of(comment):
    """A comment's text, without what makes it a comment."""
    text = comment.strip()[2:-2].strip('\n')
    lines = [re.sub(r'^ ?\*? ?', '', line) for line in text.split('\n')]
    return '\n'.join(line.rstrip() for line in lines).strip('\n')


def is_whole(code):
    """A declaration that has ended: a directive without a backslash, or a ';' outside of braces."""
    if code.startswith('#'):
        return not code.rstrip().endswith('\\') and code.count('/*') == code.count('*/')
    bare = re.sub(r'/\*.*?\*/', '', code, flags=re.DOTALL)
    return '/*' not in bare and bare.rstrip().endswith(';') and bare.count('{') == bare.count('}')


def introduction(text):
    """The comment at the header's head: the second of the file, behind the licence."""
    return text_of(re.findall(r'^/\*.*?\*/', text, re.DOTALL | re.MULTILINE)[1])


def sections_of(text):
    sections, comment, code = [], '', ''
    lines = text.split('\n')
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        title = SECTION.match(line)
        if title:
            sections.append(Section(title.group(1), number))
            comment, code = '', ''
            continue
        if not sections or line.startswith(('#ifdef', '#ifndef', '#endif', '#if ', '}')) and not code \
                or line == 'extern "C" {':
            continue
        if not code and line.startswith('/*'):
            comment = line
            while '*/' not in line and number < len(lines):
                line = lines[number]
                comment += '\n' + line
                number += 1
            continue
        if not line and not code:
            comment = ''
            continue
        code += ('\n' if code else '') + line
        if is_whole(code):
            bare = re.sub(r'/\*.*?\*/', '', code, flags=re.DOTALL)
            found = FUNCTION.findall(bare) if 'KELPIE_API' in bare else []
            sections[-1].items.append(Item(code, text_of(comment) if comment else '', found[:1]))
            code = ''
    return [section for section in sections if section.items]

# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What the checks need to know of a C file: its functions and its includes.

This is no parser. It relies on what clang-format guarantees: a function's head begins in the first
column and its closing brace stands there alone.
"""

import pathlib
import re
from dataclasses import dataclass

NOT_CODE = re.compile(
    r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
FUNCTION_HEAD = re.compile(
    r'^(?!(?:struct|enum|union)\s+\w+\s*\{)(?P<type>[A-Za-z_][\w \t*]*?[\s*])'
    r'(?P<name>\w+)\((?P<parameters>[^;{}=]*)\)\s*\{$', re.MULTILINE)
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


@dataclass
class Function:
    path: str
    name: str
    line: int  # of the head's first line
    line_count: int
    parameters: list
    body: str


def blank_out(match):
    """Spaces instead of the text, with its line ends; a comment or a literal is no code."""
    text = match.group(0)
    inner = re.sub(r'[^\n]', ' ', text)
    return inner if text[0] == '/' else text[0] + inner[1:-1] + text[-1]


def code_of(text):
    return NOT_CODE.sub(blank_out, text)


def split_parameters(text):
    """At the commas outside parentheses."""
    parameters, depth, current = [], 0, ''
    for character in text:
        depth += {'(': 1, ')': -1}.get(character, 0)
        if character == ',' and depth == 0:
            parameters.append(current.strip())
            current = ''
        else:
            current += character
    parameters.append(current.strip())
    return [p for p in parameters if p and p != 'void']


def functions_of(path, text):
    """Every function defined in a C file's text."""
    code = code_of(text)
    # Directives are blanked: a macro's body is no function.
    code = re.sub(r'^[ \t]*#(?:[^\n]*\\\n)*[^\n]*', lambda m: re.sub(r'[^\n]', ' ', m.group(0)),
                  code, flags=re.MULTILINE)
    found = []
    for head in FUNCTION_HEAD.finditer(code):
        end = re.compile(r'^\}', re.MULTILINE).search(code, head.end())
        if not end:
            continue
        first = code.count('\n', 0, head.start()) + 1
        last = code.count('\n', 0, end.start()) + 1
        found.append(Function(path, head['name'], first, last - first + 1,
                              split_parameters(head['parameters']), code[head.end():end.start()]))
    return found


def includes_of(text):
    """(line, name) of each #include "name"."""
    return [(text.count('\n', 0, m.start(1)) + 1, m.group(1)) for m in INCLUDE.finditer(text)]


def files(root, folders, suffixes=('.c', '.h')):
    """The paths, relative to root and sorted, of the files of such a name in these folders."""
    root = pathlib.Path(root)
    found = []
    for folder in folders:
        found += [p.relative_to(root) for p in (root / folder).rglob('*')
                  if p.suffix in suffixes and p.is_file()]
    return sorted(found)


def read(root, path):
    return (pathlib.Path(root) / path).read_text(encoding='utf-8')


def is_test(path):
    """A file that is no part of what is shipped."""
    return path.name.endswith(('_test.c', '_test.h', '_fuzz.c')) or path.parts[0] in ('tests', 'fuzz', 'bench')

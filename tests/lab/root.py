# SPDX-License-Identifier: Apache-2.0 OR MIT
"""The lab's root file system: an initramfs with what the programs under test and QEMU need, and no more.

Everything is copied from this machine: a static busybox, QEMU with its firmware, mkfs.ext4, the programs,
the libraries that ldd names, and the kernel with the modules that the lab and Kelpie's guests load. So it
takes neither root nor a network, and it is made anew each time, in a fraction of a second, in memory.

The format is cpio's "newc" (Linux: Documentation/driver-api/early-userspace/buffer-format.rst).
"""

import gzip
import lzma
import os
import pathlib
import re
import shutil
import stat
import subprocess

ROOT_SIZE_MAX = 2 << 30
LOADED_MODULES = ('virtio_pci', 'virtio_console', 'tun', 'kvm-amd')  # by the lab itself
GUEST_MODULES_SOURCE = pathlib.Path(__file__).resolve().parents[2] / 'src/image/initramfs.c'
MODULE_INDEXES = ('modules.order', 'modules.builtin')
QEMU = 'qemu-system-x86_64'
FIRMWARE = ('bios-microvm.bin', 'linuxboot_dma.bin', 'kvmvapic.bin', 'pvh.bin', 'bios-256k.bin')
TOOLS = ('mkfs.ext4',)
PASST = ('passt', 'passt.avx2')  # the second is what the first becomes, where the processor has AVX2
FOLDERS = ('dev', 'proc', 'sys', 'tmp', 'run', 'root', 'var/tmp', 'sbin', 'usr/sbin')
CACHE = 'var/cache'  # $XDG_CACHE_HOME in the lab


class LabError(Exception):
    """The lab cannot be made or run, and why."""


class Archive:
    """A cpio archive that grows in a memory file. Of two entries with one name the first one stays."""

    def __init__(self):
        self.fd = os.memfd_create('lab-root', os.MFD_CLOEXEC)
        self.names = {''}

    def add(self, name, mode, data=b''):
        """Adds an entry and the folders above it. False: the name is there already."""
        name = os.path.normpath(name).lstrip('/')
        if name in self.names or name == '.':
            return False
        self.add(os.path.dirname(name), stat.S_IFDIR | 0o755)
        self.names.add(name)
        self.write_entry(name, mode, data)
        return True

    def write_entry(self, name, mode, data):
        encoded = name.encode() + b'\0'
        fields = (len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        head = b'070701' + b''.join(b'%08x' % field for field in fields) + encoded
        self.write(head + bytes(-len(head) % 4))
        self.write(data)
        self.write(bytes(-len(data) % 4))

    def write(self, data):
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view):]

    def close(self):
        """Ends the archive; returns its descriptor, the caller's."""
        self.write_entry('TRAILER!!!', 0, b'')
        size = os.fstat(self.fd).st_size
        if size > ROOT_SIZE_MAX:
            raise LabError(f'the root file system has {size >> 20} MiB of at most {ROOT_SIZE_MAX >> 20}')
        return self.fd

    def add_link(self, name, target):
        self.add(name, stat.S_IFLNK | 0o777, target.encode())

    def add_text(self, name, text, mode=0o644):
        self.add(name, stat.S_IFREG | mode, text.encode())

    def add_file(self, source, name=None):
        """A copy of a file, at the same path or another, and the libraries that it is linked with."""
        source = pathlib.Path(source)
        mode = stat.S_IFREG | stat.S_IMODE(source.stat().st_mode)
        data = source.read_bytes()
        if self.add(str(name or source), mode, data) and data.startswith(b'\x7fELF'):
            for library in libraries(source):
                self.add_library(library)

    def add_library(self, path):
        if os.path.normpath(path).lstrip('/') not in self.names:
            self.add(path, stat.S_IFREG | 0o755, pathlib.Path(path).read_bytes())


def libraries(program):
    """The paths of all shared libraries of a program, its loader included. A static one has none."""
    result = subprocess.run(['ldd', str(program)], capture_output=True, text=True, check=False)
    missing = re.findall(r'(\S+) => not found', result.stdout)
    if missing:
        raise LabError(f'{program} lacks its libraries {", ".join(missing)}')
    return re.findall(r'(/\S+) \(0x', result.stdout)


def find_program(name, package):
    path = shutil.which(name, path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin')
    if not path:
        raise LabError(f'there is no {name}: install {package}')
    return path


# ---- The kernel and its modules -------------------------------------------------------------------------


def find_kernel(kelpie):
    """The kernel that Kelpie would give a guest: named, or of its cache, which it is made to fill."""
    named = os.environ.get('KELPIE_KERNEL')
    if named:
        return pathlib.Path(named)
    cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
    for attempt in range(2):
        found = sorted(cache.glob('kelpie/kernels/*/boot/vmlinuz-*'))
        if found:
            return found[-1]
        if attempt == 0:
            subprocess.run([kelpie, 'run', '--', 'true'], stdout=subprocess.DEVNULL, check=False)
    raise LabError(f'there is no kernel: {kelpie} did not fetch one into {cache}; set KELPIE_KERNEL')


def unpacked(path):
    """A module's bytes; path is as modules.order has it, without what a compression appends."""
    for ending, unpack in (('', bytes), ('.xz', lzma.decompress), ('.gz', gzip.decompress)):
        file = path.with_name(path.name + ending)
        if file.is_file():
            return unpack(file.read_bytes())
    raise LabError(f'there is no module {path}, and none with .xz or .gz')


class Modules:
    """The modules beside a kernel as a package is unpacked: no modules.dep; each says what it needs."""

    def __init__(self, kernel):
        self.release = kernel.name.removeprefix('vmlinuz-')
        places = [kernel.parent / '../lib/modules', kernel.parent / '../usr/lib/modules',
                  pathlib.Path('/lib/modules')]
        self.folder = next((p / self.release for p in places if (p / self.release).is_dir()), None)
        if not self.folder:
            raise LabError(f'there are no modules for {kernel}')
        self.paths = {}
        for line in (self.folder / 'modules.order').read_text().split():
            self.paths[pathlib.Path(line).stem.replace('-', '_')] = line

    def ordered(self, wanted):
        """{path: bytes} of these modules and what they need, what is needed first. Built-in ones are left out."""
        loaded = {}
        stack = [name.replace('-', '_') for name in reversed(wanted)]
        while stack:
            path = self.paths.get(stack[-1])
            if path is None or path in loaded:
                stack.pop()
                continue
            data = unpacked(self.folder / path)
            needs = re.search(rb'\0depends=([^\0]*)', data)
            names = needs.group(1).decode().replace('-', '_').split(',') if needs else []
            missing = [n for n in names if n in self.paths and self.paths[n] not in loaded]
            if missing:
                stack.extend(missing)
                continue
            loaded[path] = data
            stack.pop()
        return loaded


def guest_modules():
    """The names of the modules that Kelpie's guests load: the strings without a slash in the source's table."""
    table = re.search(r'\} groups\[GROUP_COUNT\] = \{(.*?)\n\};', GUEST_MODULES_SOURCE.read_text(), re.DOTALL)
    names = re.findall(r'"([a-z0-9_]+)"', table.group(1)) if table else []
    if not names:
        raise LabError(f'there is no table of modules in {GUEST_MODULES_SOURCE}')
    return names


def add_kernel(archive, kernel):
    """The kernel and its modules, as Kelpie's cache holds them; the lab loads its own from there."""
    modules = Modules(kernel)
    shelf = f'{CACHE}/kelpie/kernels/lab'
    folder = f'{shelf}/lib/modules/{modules.release}'
    archive.add_file(kernel, f'{shelf}/boot/{kernel.name}')
    for index in MODULE_INDEXES:
        archive.add_file(modules.folder / index, f'{folder}/{index}')
    loaded = modules.ordered(LOADED_MODULES)
    for path, data in (loaded | modules.ordered(guest_modules())).items():
        archive.add(f'{folder}/{path}', stat.S_IFREG | 0o644, data)
    archive.add_text('lab/modules', ''.join(f'/{folder}/{path}\n' for path in loaded))


# ---- Everything else ------------------------------------------------------------------------------------


def add_busybox(archive):
    busybox = find_program('busybox', 'busybox-static')
    if libraries(busybox):
        raise LabError(f'{busybox} is not static: install busybox-static')
    archive.add_file(busybox, 'bin/busybox')
    names = subprocess.run([busybox, '--list'], capture_output=True, text=True, check=True)
    for name in names.stdout.split():
        archive.add_link(f'bin/{name}', '/bin/busybox')
    archive.add_link('usr/bin/env', '/bin/busybox')


def add_qemu(archive):
    qemu = find_program(QEMU, 'qemu-system-x86')
    archive.add_file(qemu, f'usr/bin/{QEMU}')
    folders = subprocess.run([qemu, '-L', 'help'], capture_output=True, text=True, check=True)
    for name in FIRMWARE:
        for folder in folders.stdout.split():
            file = pathlib.Path(folder) / name
            if file.is_file():
                archive.add_file(file, f'usr/share/qemu/{name}')


def add_passt(archive):
    folder = pathlib.Path(find_program('passt', 'passt')).resolve().parent
    for name in PASST:
        if (folder / name).is_file():
            archive.add_file(folder / name, f'usr/bin/{name}')


def add_system(archive):
    for folder in FOLDERS:
        archive.add(folder, stat.S_IFDIR | 0o755)
    archive.add_text('etc/passwd', 'root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n')
    archive.add_text('etc/group', 'root:x:0:\nnogroup:x:65534:\n')
    archive.add_text('etc/hosts', '127.0.0.1 localhost\n::1 localhost\n')
    for tool in TOOLS:
        archive.add_file(find_program(tool, 'e2fsprogs'), f'usr/sbin/{tool}')
    if os.path.exists('/etc/mke2fs.conf'):
        archive.add_file('/etc/mke2fs.conf')

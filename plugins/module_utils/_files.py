# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are read and replaced as they are."""

import os
import pwd
import shutil
import tempfile
import time


def read_text(path):
    """A file as str that gives back the same bytes when encoded the same way."""
    with open(path, "rb") as source:
        return source.read().decode("utf-8", "surrogateescape")


def replace(path, text, mode=0o644, user=None):
    """Replaces a file in one step; mode, owner and extended attributes of the old one stay. Follows a symbolic link.

    :param mode: of a new file. :param user: str, who is to own a new file where root writes it: a name or a number.
    :raises OSError: it cannot be written. :raises KeyError: there is no such user.
    """
    path = os.path.realpath(path)
    handle, temporary = tempfile.mkstemp(prefix="." + os.path.basename(path) + ".", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as target:
            target.write(text.encode("utf-8", "surrogateescape"))
            target.flush()
            os.fsync(target.fileno())
        if os.path.exists(path):
            status = os.stat(path)
            shutil.copystat(path, temporary)
            os.utime(temporary)
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(temporary, status.st_uid, status.st_gid)
        else:
            if user and os.geteuid() == 0:
                entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
                os.chown(temporary, entry.pw_uid, entry.pw_gid)
            os.chmod(temporary, mode)
        os.rename(temporary, path)
    except Exception:  # whatever it was: no half file stays, and it is raised again
        os.unlink(temporary)
        raise


def copy(path, destination):
    """A copy with the same mode, owner and times, never more readable than the original in between."""
    handle = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as target, open(path, "rb") as source:
        shutil.copyfileobj(source, target)
    status = os.stat(path)
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(destination, status.st_uid, status.st_gid)
    shutil.copystat(path, destination)


def backup(path):
    """Keeps a copy of a file beside it, named as Ansible names its own. Returns its path."""
    kept = "{0}.{1}.{2}~".format(path, os.getpid(), time.strftime("%Y-%m-%d@%H:%M:%S"))
    copy(path, kept)
    return kept

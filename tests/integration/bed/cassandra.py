# Copyright (c) 2026 The bluegreen.kong authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Cassandra node out of Maven Central's jars, without root.

Needs Java 17 (Cassandra 3.11 does not run on a newer one) and, once, Maven, whose own settings say where it asks.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess

from .process import BedError, run, spawn, wait_for

RECIPE = pathlib.Path(__file__).resolve().parent / "cassandra_jars"
CACHE = pathlib.Path(__file__).resolve().parents[3] / ".cache"
SUPERUSER = "cassandra"  # the role that a node with passwords makes by itself; its password is the same word
CQL_PORT, STORAGE_PORT = 9042, 7000
JAVA = "17"
PACKAGES = "openjdk-17-jre-headless and maven"

# What Cassandra reaches into that Java has closed since 9.
OPEN = (
    "--add-exports java.base/jdk.internal.misc", "--add-exports java.base/jdk.internal.ref",
    "--add-exports java.base/sun.nio.ch", "--add-exports java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "--add-exports java.rmi/sun.rmi.registry", "--add-exports java.rmi/sun.rmi.server",
    "--add-exports java.sql/java.sql", "--add-opens java.base/java.io", "--add-opens java.base/java.lang",
    "--add-opens java.base/java.lang.module", "--add-opens java.base/java.lang.reflect",
    "--add-opens java.base/java.net", "--add-opens java.base/java.nio", "--add-opens java.base/java.util",
    "--add-opens java.base/java.util.concurrent", "--add-opens java.base/java.util.concurrent.atomic",
    "--add-opens java.base/jdk.internal.loader", "--add-opens java.base/jdk.internal.math",
    "--add-opens java.base/jdk.internal.misc", "--add-opens java.base/jdk.internal.module",
    "--add-opens java.base/jdk.internal.ref", "--add-opens java.base/jdk.internal.reflect",
    "--add-opens java.base/jdk.internal.util.jar", "--add-opens java.base/sun.nio.ch",
    "--add-opens jdk.management/com.sun.management.internal",
)  # fmt: skip
OPENED = [word for words in OPEN for word in (words.split()[0], words.split()[1] + "=ALL-UNNAMED")]
# One small node that is alone: nobody to wait for, no time spent on optimising.
JVM = (
    "-Xms384M", "-Xmx384M", "-Xss512k", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData",
    "-Djava.net.preferIPv4Stack=true", "-Dcassandra.skip_wait_for_gossip_to_settle=0", "-Dcassandra.ring_delay_ms=100",
    "-Dcassandra.superuser_setup_delay_ms=0", "-Dcassandra-foreground=yes",
)  # fmt: skip

# Each change of a schema is written through to the disk, which takes 0.1 s; without, 0.02 s.
FORGETFUL = "-Dcassandra.unsafesystem=true"

YAML = """\
cluster_name: bed
num_tokens: 1
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: "{seed}"
listen_address: {address}
rpc_address: {address}
storage_port: {storage_port}
native_transport_port: {port}
start_native_transport: true
start_rpc: false
auto_bootstrap: false
data_file_directories: ["{home}/data"]
commitlog_directory: "{home}/commitlog"
saved_caches_directory: "{home}/saved_caches"
hints_directory: "{home}/hints"
cdc_raw_directory: "{home}/cdc_raw"
commitlog_sync: periodic
commitlog_sync_period_in_ms: 10000
commitlog_segment_size_in_mb: 4
commitlog_total_space_in_mb: 64
memtable_heap_space_in_mb: 128
memtable_offheap_space_in_mb: 32
# Without slabs: Kong has dozens of tables, which would each take a megabyte for a row.
memtable_allocation_type: unslabbed_heap_buffers
key_cache_size_in_mb: 4
file_cache_size_in_mb: 32
auto_snapshot: false
concurrent_reads: 4
concurrent_writes: 4
concurrent_counter_writes: 4
# A busy machine is no broken one: by itself a write has 2 s.
read_request_timeout_in_ms: 20000
range_request_timeout_in_ms: 20000
write_request_timeout_in_ms: 20000
counter_write_request_timeout_in_ms: 20000
cas_contention_timeout_in_ms: 20000
request_timeout_in_ms: 20000
"""
AUTH = """\
authenticator: PasswordAuthenticator
authorizer: CassandraAuthorizer
role_manager: CassandraRoleManager
roles_validity_in_ms: 0
permissions_validity_in_ms: 0
credentials_validity_in_ms: 0
"""
TLS = """\
client_encryption_options:
  enabled: true
  optional: false
  keystore: "{keystore}"
  keystore_password: "{password}"
  store_type: PKCS12
"""
NODETOOL = """\
#!/bin/sh
exec {java} -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData -Djna.tmpdir={home}/tmp -Djava.io.tmpdir={home}/tmp \\
  -Duser.home={home} {opened} \\
  -Dcassandra.config=file://{home}/conf/cassandra.yaml -Dcassandra.storagedir={home} \\
  -Dlogback.configurationFile={home}/conf/logback-tools.xml -cp "{home}/conf:{lib}/*" bsh.Interpreter {home}/conf/nodetool.bsh \\
  -h 127.0.0.1 -p {port} "$@"
"""
# By itself, nodetool of 3.11 ends on a newer Java than 8 before it begins: it lacks a configuration that tells what to do about that.
NODETOOL_MAIN = """\
org.apache.cassandra.config.DatabaseDescriptor.toolInitialization();
org.apache.cassandra.tools.NodeTool.main(bsh.args);
"""
QUIET = '<configuration><root level="OFF"/></configuration>\n'
LOGBACK = """\
<configuration><appender name="out" class="ch.qos.logback.core.ConsoleAppender"><encoder>
<pattern>%-5level [%thread] %date{ISO8601} %F:%L - %msg%n</pattern></encoder></appender>
<root level="INFO"><appender-ref ref="out"/></root></configuration>
"""


def java():
    """Path of a Java that Cassandra 3.11 runs on, or None."""
    homes = [os.environ.get("JAVA_HOME")] + sorted(map(str, pathlib.Path("/usr/lib/jvm").glob("*")))
    for command in [f"{home}/bin/java" for home in homes if home] + [shutil.which("java")]:
        if not command or not os.access(command, os.X_OK):
            continue
        told = subprocess.run([command, "-version"], capture_output=True, text=True, check=False).stderr
        if re.search(rf'version "{JAVA}[."]', told):
            return command
    return None


def missing():
    """What a node could not be used without, in words, or None."""
    if importlib.util.find_spec("cassandra") is None:
        return "cassandra-driver is not installed (make .venv/.test)"  # the demo does without
    if java() is None:
        return f"Cassandra needs Java {JAVA}, which is not here (Debian packages {PACKAGES})"
    if not _complete(_folder()) and not shutil.which("mvn"):
        return f"Cassandra's jars are fetched by Maven, which is not here (Debian packages {PACKAGES})"
    return None


def _folder():
    recipe = hashlib.sha256((RECIPE / "SHA256SUMS").read_bytes()).hexdigest()
    return CACHE / f"cassandra-{recipe[:12]}"


def _complete(folder):
    return (folder / "complete").exists()


def jars():
    """The folder with the jars; they are fetched when they are not there, and each is what SHA256SUMS says."""
    folder = _folder()
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "cassandra.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two tests may begin at once
        if not _complete(folder):
            _fetch(folder)
    return folder


def _fetch(folder):
    shutil.rmtree(folder, ignore_errors=True)
    maven = shutil.which("mvn")
    if not maven:
        raise BedError(missing())
    run(
        [maven, "--batch-mode", "--quiet", "--file", RECIPE / "pom.xml", "dependency:copy-dependencies",
         "-DincludeScope=runtime", f"-DoutputDirectory={folder}"],
        dict(os.environ), timeout=600,
    )
    wanted = dict(reversed(line.split()) for line in (RECIPE / "SHA256SUMS").read_text(encoding="ascii").splitlines())
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.jar")}
    if found != wanted:
        wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise BedError(f"what Maven brought into {folder} is not what SHA256SUMS says: {', '.join(wrong)}")
    (folder / "complete").touch()


class Cassandra:
    """One node, a cluster of its own or one of a ring.

    :param directory: an existing folder
    :param address: address of its own on this machine; the ports may be taken there by one node only
    :param auth: whether clients need a password; else everybody is let in
    :param tls: (PKCS12 file, its password): clients must use TLS
    :param seed: address of the node whose ring it joins; without, it is a cluster of its own
    :param jmx_port: a free port of 127.0.0.1, through which `nodetool` speaks to the node; without, it cannot
    :param restarts: whether it will be ended and started again on its data, which takes longer for each table
    """

    def __init__(self, directory, address, env, port=CQL_PORT, storage_port=STORAGE_PORT, auth=False, tls=None,
                 restarts=False, jmx_port=None, seed=None):
        self.home = pathlib.Path(directory) / "cassandra"
        self.address, self.port, self.storage_port = address, port, storage_port
        self.env, self.auth, self.tls, self.restarts = env, auth, tls, restarts
        self.jmx_port, self.seed = jmx_port, seed or address
        self.nodetool = self.home / "nodetool"
        self.log = pathlib.Path(directory) / "cassandra.log"
        self.process = None
        self._cluster = None

    def start(self):
        """Start it, on the data that it has; returns when it answers a client."""
        lib = jars()
        command = java()
        if command is None:
            raise BedError(missing())
        self._write(lib, command)
        agent = next(lib.glob("jamm-*.jar"))
        argv = [command, f"-javaagent:{agent}", *JVM, *([] if self.restarts else [FORGETFUL])]
        argv += [f"-Dcassandra.jmx.local.port={self.jmx_port}"] if self.jmx_port else []
        argv += OPENED
        argv += [
            f"-Dcassandra.config=file://{self.home}/conf/cassandra.yaml", f"-Dcassandra.storagedir={self.home}",
            f"-Dlogback.configurationFile={self.home}/conf/logback.xml", f"-Djava.io.tmpdir={self.home}/tmp",
            f"-Djna.tmpdir={self.home}/tmp", "-cp", f"{self.home}/conf:{lib}/*",
            "org.apache.cassandra.service.CassandraDaemon",
        ]
        self.process = spawn(argv, self.log, self.env, cwd=self.home)
        wait_for(self._answers, 90, f"Cassandra answers (see {self.log})", interval=0.2)

    def _write(self, lib, command):
        for name in ("conf", "tmp"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        text = YAML.format(address=self.address, seed=self.seed, port=self.port, storage_port=self.storage_port, home=self.home)
        if self.auth:
            text += AUTH
        if self.tls:
            text += TLS.format(keystore=self.tls[0], password=self.tls[1])
        (self.home / "conf" / "cassandra.yaml").write_text(text, encoding="utf-8")
        (self.home / "conf" / "logback.xml").write_text(LOGBACK, encoding="utf-8")
        if self.jmx_port:
            (self.home / "conf" / "logback-tools.xml").write_text(QUIET, encoding="utf-8")
            (self.home / "conf" / "nodetool.bsh").write_text(NODETOOL_MAIN, encoding="utf-8")
            self.nodetool.write_text(NODETOOL.format(
                java=command, home=self.home, lib=lib, port=self.jmx_port, opened=" ".join(OPENED)), encoding="utf-8")
            self.nodetool.chmod(0o755)

    def _answers(self):
        if self.process.poll() is not None:
            text = self.log.read_text(encoding="utf-8", errors="replace")
            raise BedError(f"Cassandra ended by itself:\n{text[-4000:]}")
        from cassandra.cluster import NoHostAvailable

        try:
            socket.create_connection((self.address, self.port), 2).close()
            self.session()
        except (OSError, NoHostAvailable):
            return False
        return True

    def session(self):
        """A session as the superuser whose rows are dicts; the same one until the node is stopped."""
        if self._cluster is None:
            cluster = self._connect()
            try:
                session = cluster.connect()
            except BaseException:
                cluster.shutdown()
                raise
            self._cluster = (cluster, session)
        return self._cluster[1]

    def _connect(self):
        from cassandra.auth import PlainTextAuthProvider
        from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
        from cassandra.policies import WhiteListRoundRobinPolicy
        from cassandra.query import dict_factory

        context = None
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        profile = ExecutionProfile(
            WhiteListRoundRobinPolicy([self.address]), row_factory=dict_factory, request_timeout=30)
        return Cluster(
            [self.address], port=self.port, protocol_version=4, ssl_context=context,
            auth_provider=PlainTextAuthProvider(SUPERUSER, SUPERUSER) if self.auth else None,
            execution_profiles={EXEC_PROFILE_DEFAULT: profile}, schema_metadata_enabled=False,
            token_metadata_enabled=False,
        )

    def execute(self, cql, *values):
        """Run one statement; its rows as a list of dicts."""
        return list(self.session().execute(cql, values or None))

    def forget(self):
        """Close the session."""
        if self._cluster is not None:
            self._cluster[0].shutdown()
            self._cluster = None

    def kill(self):
        """As a power cut would, but for what the operating system still writes."""
        self._end(signal.SIGKILL)

    def stop(self):
        """End it."""
        self._end(signal.SIGTERM)

    def _end(self, number):
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
        self.forget()  # which takes a second
        if self.process is not None:
            self.process.wait(60)
            self.process = None

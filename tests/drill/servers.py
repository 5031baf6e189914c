"""What a cluster leans on, as real processes that can be killed and started again at the same address."""

from __future__ import annotations

import asyncio
import glob
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psycopg2
from aiohttp import ClientError, ClientSession, web
from yarl import URL

from tests.conftest import free_port

__all__ = ["FaultyS3", "Postgres", "Server", "mlflow_server"]

Mood = Literal["well", "busy", "slow", "expired"]


class Server:
    """A process that answers at an address.

    Args:
        command: All of it.
        ready: (host, port) that it listens on once it answers.
        environment: All of it.
        log: Its output.
    """

    def __init__(
        self, command: Sequence[str | Path], ready: tuple[str, int], environment: Mapping[str, str], log: Path
    ) -> None:
        self._command, self._ready, self._environment, self._log = command, ready, environment, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it listens."""
        with self._log.open("ab") as sink:
            self._process = subprocess.Popen(
                self._command,
                env=dict(self._environment),
                cwd=self._log.parent,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while True:
            assert self._process.poll() is None, self._log.read_text()
            with socket.socket() as probe:
                if probe.connect_ex(self._ready) == 0:
                    return
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL to it and all it has started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class Postgres:
    """PostgreSQL behind a socket in a folder, with a password. It refuses to run as root, so it runs as its own user.

    Attributes:
        password: Of the user mlflow.
    """

    def __init__(self, folder: Path) -> None:
        self.password = secrets.token_hex(16)
        self._folder, self._programs = folder, _postgres_programs()
        folder.mkdir()
        shutil.chown(folder, "postgres", "postgres")
        secret = folder / "password"
        secret.write_text(self.password)
        shutil.chown(secret, "postgres", "postgres")
        words = ["--username=mlflow", "--auth=scram-sha-256", "--no-sync", "--no-instructions"]
        self._run("initdb", *words, f"--pwfile={secret}", f"--pgdata={folder / 'data'}")
        secret.unlink()
        words = ["--wait", f"--pgdata={folder / 'data'}", f"--log={folder / 'server.log'}"]
        self._run("pg_ctl", "start", *words, f"--options=-c listen_addresses= -k {folder} -c fsync=off")

    @property
    def uri(self) -> str:
        """For SQLAlchemy; it holds the password."""
        return f"postgresql+psycopg2://mlflow:{self.password}@/postgres?host={self._folder}"

    def ask(self, query: str) -> list[tuple[object, ...]]:
        """Rows of a query, none while MLflow has not made its tables."""
        connection = psycopg2.connect(host=str(self._folder), user="mlflow", password=self.password, dbname="postgres")
        try:
            with connection.cursor() as cursor:
                cursor.execute(query)
                return list(cursor.fetchall())
        except psycopg2.errors.UndefinedTable:
            return []
        finally:
            connection.close()

    def dump(self) -> str:
        """All of the database, as text."""
        words = [f"--host={self._folder}", "--username=mlflow", "postgres"]
        return self._run("pg_dump", *words, PGPASSWORD=self.password)

    def stop(self) -> None:
        """At once."""
        self._run("pg_ctl", "stop", "--mode=immediate", f"--pgdata={self._folder / 'data'}")

    def _run(self, program: str, *words: str, **variables: str) -> str:
        command = ["runuser", "-u", "postgres", "--", self._programs / program, *words]
        done = subprocess.run(
            command, cwd="/", env={"PATH": os.environ["PATH"], **variables}, stdout=subprocess.PIPE, text=True
        )
        assert done.returncode == 0, f"{program} ended with {done.returncode}"
        return done.stdout


def _postgres_programs() -> Path:
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if not found:
        raise SystemExit("drill: no PostgreSQL on this machine; make debian installs it")
    return Path(found[-1]).parent


def mlflow_server(postgres: Postgres, host: str, folder: Path) -> tuple[Server, str]:
    """A tracking server with a registry, and its address; artefacts go through it into a folder."""
    port = free_port(host)
    words = ["--workers", "1", "--host", host, "--port", str(port)]
    words += ["--serve-artifacts", "--artifacts-destination", str(folder / "artifacts"), "--allowed-hosts", "*"]
    # Not on the command line, which everybody on the machine can read.
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": postgres.uri, "OMP_NUM_THREADS": "1"}
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", *words]
    server = Server(command, (host, port), environment, folder / "mlflow.log")
    server.start()
    address = f"http://{host}:{port}"
    while True:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return server, address
        except OSError:
            time.sleep(0.2)


class FaultyS3:
    """rclone's S3 server on a small disk of its own, behind a proxy that can answer as S3 does on a bad day.

    Attributes:
        mood: ``busy``: every other request is answered 503 SlowDown; ``slow``: each answer comes a second late;
            ``expired``: each is refused with ExpiredToken.
        disk: The server's objects as files, a folder each bucket.
        key: Of the account.
        secret: Of the account.
        endpoint: Of the proxy.
    """

    def __init__(self, host: str, folder: Path, *, disk_mb: int, buckets: Sequence[str]) -> None:
        self.mood: Mood = "well"
        self.disk, self.key, self.secret = folder / "disk", secrets.token_hex(10), secrets.token_hex(20)
        self.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={disk_mb}m", "tmpfs", self.disk], check=True)
        for bucket in buckets:
            (self.disk / bucket).mkdir()
        self._behind = free_port("127.0.0.1")
        rclone = os.path.join(sysconfig.get_path("scripts"), "rclone")
        words = ["--config", "/dev/null", "serve", "s3", "--addr", f"127.0.0.1:{self._behind}", str(self.disk)]
        # Quoted, since rclone takes a variable for a list with commas.
        environment = os.environ | {"RCLONE_AUTH_KEY": f'"{self.key},{self.secret}"'}
        self.server = Server([rclone, *words], ("127.0.0.1", self._behind), environment, folder / "s3.log")
        self.server.start()
        port = free_port(host)
        self.endpoint = f"http://{host}:{port}"
        self._answered = 0
        self._loop = asyncio.new_event_loop()
        listening = threading.Event()
        threading.Thread(target=self._serve, args=(host, port, listening), daemon=True).start()
        listening.wait()

    def fill(self) -> None:
        """Takes all that is left of the disk."""
        with (self.disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(2**16))

    def empty(self) -> None:
        """Gives it back."""
        (self.disk / "ballast").unlink()

    def stop(self) -> None:
        """With its disk."""
        self.server.kill()
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        asyncio.run_coroutine_threadsafe(self._session.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        subprocess.run(["umount", "--lazy", self.disk], check=True)

    def _serve(self, host: str, port: int, listening: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def begin() -> None:
            self._session = ClientSession(auto_decompress=False)
            application = web.Application(client_max_size=2**30)
            application.router.add_route("*", "/{path:.*}", self._answer)
            self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
            await self._runner.setup()
            await web.TCPSite(self._runner, host, port).start()
            listening.set()

        self._loop.run_until_complete(begin())
        self._loop.run_forever()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self._answered += 1
        if self.mood == "busy" and self._answered % 2:
            return _refusal(503, "SlowDown", "Please reduce your request rate.")
        if self.mood == "expired":
            return _refusal(400, "ExpiredToken", "The provided token has expired.")
        if self.mood == "slow":
            await asyncio.sleep(1.0)
        body = await request.read()
        url = URL(f"http://127.0.0.1:{self._behind}{request.raw_path}", encoded=True)
        try:
            # The signature is over the name by which the client called.
            async with self._session.request(
                request.method, url, headers=request.headers, data=body, allow_redirects=False
            ) as found:
                headers = {k: v for k, v in found.headers.items() if k.lower() != "transfer-encoding"}
                answer = web.StreamResponse(status=found.status, headers=headers)
                await answer.prepare(request)
                async for piece in found.content.iter_chunked(2**16):
                    await answer.write(piece)
                await answer.write_eof()
                return answer
        except (ClientError, OSError):
            if request.transport is not None:
                request.transport.abort()  # nobody listens behind, as the client is to see it
            return web.Response()


def _refusal(status: int, code: str, message: str) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return web.Response(status=status, text=text, content_type="application/xml")

"""How the process of a server ends."""

import http.client
import signal
import subprocess
import sys
import threading

import pytest

DRAIN_S = 1
STUCK = f"""
import time
from fastapi import FastAPI
from kameleon.http import Runner, open_socket
from kameleon.settings import HttpSettings

app = FastAPI()

@app.get("/stuck")
def stuck():
    print("stuck", flush=True)
    time.sleep(600)

settings = HttpSettings(port=0, drain_s={DRAIN_S})
opened = open_socket(settings)
Runner(settings).run(app, opened, on_ready=lambda: print(opened.getsockname()[1], flush=True))
"""


@pytest.mark.slow
def test_a_signal_ends_the_server_although_a_thread_still_computes():
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True) as process:
        connection = http.client.HTTPConnection("127.0.0.1", int(process.stdout.readline()))
        asking = threading.Thread(target=connection.request, args=("GET", "/stuck"))
        asking.start()
        assert process.stdout.readline() == "stuck\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        asking.join()
        connection.close()

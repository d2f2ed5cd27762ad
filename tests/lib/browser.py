"""Headless Chromium over chromedriver's HTTP interface (W3C WebDriver), with
nothing but the standard library. Use as a context manager:

    with Browser(width=1280, height=800) as page:
        page.open(path)
        page.run("return document.title")
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's name for a reference
KEYS = {
    "Enter": "\ue007", "Escape": "\ue00c", "ArrowLeft": "\ue012", "ArrowUp": "\ue013",
    "ArrowRight": "\ue014", "ArrowDown": "\ue015", "Backspace": "\ue003", "Tab": "\ue004",
}


def missing():
    """Why no browser test can run here, or None."""
    for program in ("chromedriver", "chromium"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None


class Browser:
    def __init__(self, width=1280, height=800, dark=False, phone=False):
        self.size, self.dark, self.phone = (width, height), dark, phone
        self.driver = self.session = None

    def __enter__(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.base = f"http://127.0.0.1:{port}"
        self.home = tempfile.mkdtemp(prefix="ss-browser-")
        self.driver = subprocess.Popen(
            ["chromedriver", f"--port={port}", "--log-level=SEVERE"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self.home})
        try:
            self.wait(self._up, "chromedriver", 30)
            self.session = self.call("POST", "/session", {"capabilities": {
                "alwaysMatch": self._capabilities()}})["sessionId"]
            self._emulate()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _emulate(self):
        width, height = self.size
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height,
                 deviceScaleFactor=2 if self.phone else 1, mobile=self.phone)
        self.cdp("Emulation.setTouchEmulationEnabled", enabled=self.phone)
        self.scheme("dark" if self.dark else "light")
        self.requests()  # of the page that a new window shows
        self.complaints()

    def __exit__(self, *_):
        try:
            if self.session:
                self.call("DELETE", self._path(""))
        finally:
            self.driver.terminate()
            self.driver.wait()
            shutil.rmtree(self.home, ignore_errors=True)

    def _up(self):
        try:
            return self.call("GET", "/status")["ready"]
        except OSError:
            return False

    def _capabilities(self):
        options = {
            "binary": shutil.which("chromium"),
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                     "--disable-dev-shm-usage", f"--user-data-dir={self.home}/profile",
                     "--window-size=1400,1000"],
        }
        return {
            "browserName": "chrome", "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }

    def _path(self, what):
        return f"/session/{self.session}{what}"

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    # ---- what tests use ---------------------------------------------------------

    def cdp(self, command, **params):
        return self.call("POST", self._path("/goog/cdp/execute"),
                         {"cmd": command, "params": params})

    def scheme(self, value):
        """What the system prefers: light or dark."""
        self.cdp("Emulation.setEmulatedMedia", media="",
                 features=[{"name": "prefers-color-scheme", "value": value}])

    def open(self, where, fragment=""):
        url = where if "://" in str(where) else f"file://{where}"
        self.call("POST", self._path("/url"), {"url": "about:blank"})
        self.call("POST", self._path("/url"), {"url": url + (f"#{fragment}" if fragment else "")})

    def run(self, script, *args):
        return self.call(
            "POST", self._path("/execute/sync"), {"script": script, "args": list(args)})

    def run_async(self, script, *args):
        """The last argument in `script` is the callback."""
        return self.call(
            "POST", self._path("/execute/async"), {"script": script, "args": list(args)})

    def wait(self, condition, what="condition", seconds=30):
        """Until `condition` (a function, or a script) is true; a deadline, no sleep."""
        ask = condition if callable(condition) else lambda: self.run(f"return {condition}")
        end = time.monotonic() + seconds
        while True:
            value = ask()
            if value:
                return value
            if time.monotonic() > end:
                raise AssertionError(f"still not after {seconds} s: {what} ({condition})")
            time.sleep(0.05)

    def find(self, selector):
        found = self.call("POST", self._path("/element"),
                          {"using": "css selector", "value": selector})
        return found[ELEMENT]

    def click(self, selector):
        self.call("POST", self._path(f"/element/{self.find(selector)}/click"), {})

    def keys(self, *keys):
        """Presses keys in the focused element: "a", "Enter", "Shift+Enter"."""
        actions = []
        for key in keys:
            held = ["\ue008"] if key.startswith("Shift+") else []
            pressed = key.removeprefix("Shift+")
            pressed = KEYS.get(pressed, pressed)
            actions += [{"type": "keyDown", "value": k} for k in held]
            actions += [{"type": t, "value": pressed} for t in ("keyDown", "keyUp")]
            actions += [{"type": "keyUp", "value": k} for k in held]
        self.call("POST", self._path("/actions"), {"actions": [
            {"type": "key", "id": "keys", "actions": actions}]})

    def pointer(self, x, y, press=False, kind="mouse"):
        actions = [{"type": "pointerMove", "x": round(x), "y": round(y)}]
        if press:
            actions += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self.call("POST", self._path("/actions"), {"actions": [
            {"type": "pointer", "id": kind, "parameters": {"pointerType": kind},
             "actions": actions}]})

    def picture(self, path):
        with open(path, "wb") as f:
            f.write(base64.b64decode(self.call("GET", self._path("/screenshot"))))

    def log(self, kind):
        return self.call("POST", self._path("/se/log"), {"type": kind})

    def complaints(self):
        """Console messages of warnings and errors since the last call."""
        return [entry["message"] for entry in self.log("browser")
                if entry["level"] in ("WARNING", "SEVERE")]

    def requests(self):
        """URLs that the page asked for since the last call, data: left out."""
        urls = []
        for entry in self.log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                urls.append(message["params"]["request"]["url"])
        return [url for url in urls if not url.startswith(("data:", "about:", "chrome:"))]

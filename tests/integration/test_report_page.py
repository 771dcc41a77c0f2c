"""The pages of a real agent in a real browser: what they show, that they need nothing, and that no foreign text comes to life."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.servers.agent import Agent, wait_for
from tests.servers.browser import Browser
from tests.servers.relay import Command, Relay, Reply, Rule

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
PHONE = 375
ADDRESSES = [f"to{n}@domain{n % 4}.example" for n in range(240)]
#: Each sets `owned` if any of it is taken for more than text.
SCRIPT = "<script>window.owned=1</script>"
IMAGE = '"><img src=x onerror="window.owned=1">'
QUOTE = "' autofocus onfocus='window.owned=1"
REPLY = f"550 5.1.1 {SCRIPT}{IMAGE}{QUOTE}</bdi></td></table><svg onload=window.owned=1>"


@dataclass(frozen=True)
class Scene:
    """A spool that an agent has left: a job with every kind of result, one with hostile words throughout, one that was rejected."""

    spool: Path

    @property
    def job(self) -> Path:
        return self.spool / "deferred/job/report/index.html"

    @property
    def hostile(self) -> Path:
        return self.spool / "done/hostile/report/index.html"

    @property
    def rejected(self) -> Path:
        return self.spool / "done/rejected/report/index.html"

    @property
    def pages(self) -> dict[str, Path]:
        return {"job": self.job, "hostile": self.hostile, "rejected": self.rejected, "spool": self.spool / "index.html"}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with (
        Relay() as relay,
        Agent(tmp_path_factory.mktemp("scene"), relay.port, config={"timezone": "Europe/Vienna"}) as agent,
    ):
        relay.rules += [
            Rule(Command.RCPT, Reply("550 5.1.1 no such user"), match=r"to\d*7@"),
            Rule(Command.RCPT, Reply("552 5.2.2 mailbox full"), match=r"to\d*6@"),
            Rule(Command.RCPT, Reply("451 4.7.1 greylisted, come back"), match=r"to\d*8@"),
            Rule(Command.RCPT, Reply(REPLY), match="evil"),
        ]
        agent.start()
        agent.drop("job", ADDRESSES, manifest={"description": "A job like any other"})
        rows = f'address,note\nevil@one.example,{SCRIPT}\n"""{SCRIPT}""@two.example",x\n"not {IMAGE.replace(chr(34), "")}",{SCRIPT}\n'
        agent.drop("hostile", rows, manifest={"description": f"{SCRIPT}{IMAGE}{QUOTE}{{{{ 7 * 7 }}}}"})
        agent.drop("rejected", manifest={f"key{SCRIPT}": IMAGE, "sender": QUOTE})
        (agent.spool / "new" / IMAGE.replace("/", "")).mkdir()
        half = agent.write_job(agent.spool / "new" / "half", manifest={"expect": {"recipients": 9}})
        agent.wait_state("job", "waiting")
        agent.wait_state("hostile", "finished")
        agent.wait_state("rejected", "rejected")

        def told() -> bool:
            try:
                page = (agent.spool / "index.html").read_text()
            except FileNotFoundError:
                return False
            return (
                all(f"/{name}/report/index.html" in page for name in ("job", "hostile", "rejected"))
                and half.name in page
            )

        wait_for(told, timeout=30, what="the spool's page with every job")
        assert agent.stop() == 0
        yield Scene(agent.spool)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


def figure(page: Page, word: str) -> str:
    """The number beside a state under *Progress*."""
    return page.locator(".counts li", has_text=word).locator("b").inner_text()


def shown(page: Page) -> list[str]:
    """The addresses that the table of recipients shows."""
    return page.locator("#rows tbody tr td:nth-child(2)").all_inner_texts()


def test_page_says_what_the_status_says(scene: Scene, browser: Browser) -> None:
    status = json.loads((scene.job.parent / "status.json").read_bytes())
    with browser.look(scene.job) as sight:
        page = sight.page
        assert page.title() == "job · waiting 90.0% · spoold"
        assert page.locator("h1").inner_text() == "job"
        assert page.get_by_text("A job like any other").is_visible()
        assert "some recipients are tried again later" in page.locator(".state").inner_text()
        for word in ("sent", "failed", "deferred"):
            assert figure(page, word) == str(status["counts"][word])
        assert page.get_by_text("216 of 240 recipients done").is_visible()
        domains = page.locator(".domains tbody tr").all_inner_texts()
        assert [re.split(r"\s+", text)[:2] for text in domains] == [[f"domain{n}.example", "60"] for n in range(4)]
        categories = page.locator(".categories tbody tr").all_inner_texts()
        assert sorted(re.split(r"\s+", text)[:2] for text in categories) == [
            ["bad-mailbox", "24"],
            ["quota-issues", "24"],
        ]
        reasons = "\n".join(page.locator(".reasons tbody tr").all_inner_texts())
        assert all(text in reasons for text in ("550 5.1.1 no such user", "451 4.7.1 greylisted, come back"))
        assert page.locator(".plot g").count() >= 1
        assert page.get_by_role("img", name="Attempts over time").is_visible()
        tried = page.locator("details td").all_text_contents()
        assert sum(int(number) for number in tried) == len(ADDRESSES), "every attempt is in the chart's figures once"


def test_pages_ask_for_nothing_and_complain_of_nothing(scene: Scene, browser: Browser) -> None:
    for path in scene.pages.values():
        with browser.look(path) as sight:
            sight.page.wait_for_load_state("networkidle")
            assert sight.requests == [path.as_uri()]
            assert sight.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, PHONE])
def test_pages_keep_wcag_2_1_aa(scene: Scene, browser: Browser, scheme: str, width: int) -> None:
    for name, path in scene.pages.items():
        with browser.look(path, width=width, color_scheme=scheme) as sight:
            for details in sight.page.locator("summary").all():
                details.click()
            found = Axe().run(sight.page, options={"runOnly": WCAG, "resultTypes": ["violations", "incomplete"]})
            assert found.violations_count == 0, f"{name}: {found.generate_report()}"
            assert found.response["passes"], "axe looked at nothing"


def test_pages_need_no_width_and_print(scene: Scene, browser: Browser, tmp_path: Path) -> None:
    for name, path in scene.pages.items():
        for width in (320, PHONE, 700, 1280):  # 320: WCAG 1.4.10, reflow
            with browser.look(path, width=width) as sight:
                beyond = sight.page.evaluate(
                    "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                )
                assert beyond <= 0, f"{name} is {beyond} pixels too wide at {width}"
        with browser.look(path) as sight:
            assert sight.page.pdf(path=tmp_path / "page.pdf", format="A4").startswith(b"%PDF-")


def test_all_is_there_without_javascript(scene: Scene, browser: Browser) -> None:
    with browser.look(scene.job, java_script_enabled=False) as sight:
        page = sight.page
        assert sorted(shown(page)) == sorted(ADDRESSES)
        assert page.locator("#tools").is_hidden()
        assert page.locator("button:visible").count() == 0
        page.locator("summary").click()
        assert page.locator("details table").is_visible()


def test_recipients_are_searched_filtered_and_sorted(scene: Scene, browser: Browser) -> None:
    with browser.look(scene.job) as sight:
        page = sight.page
        found = page.locator("#found")
        assert found.inner_text() == "Showing 100 of 240"
        assert shown(page) == ADDRESSES[:100]
        page.get_by_role("button", name="Show more").click()
        assert len(shown(page)) == 240
        assert found.inner_text() == "Showing all 240"
        page.get_by_label("Search").fill("DOMAIN1 no such")
        assert shown(page) == [to for n, to in enumerate(ADDRESSES) if n % 10 == 7 and n % 4 == 1]
        page.get_by_label("Search").fill("nobody has this")
        assert found.inner_text() == "None match"
        page.get_by_label("Search").fill("")
        page.get_by_label("State").select_option("deferred")
        assert shown(page) == [to for n, to in enumerate(ADDRESSES) if n % 10 == 8]
        page.get_by_role("button", name="Line").click()
        page.get_by_role("button", name="Line").click()
        assert shown(page) == [to for n, to in enumerate(ADDRESSES) if n % 10 == 8][::-1]
        assert page.locator("#rows th[aria-sort]").get_attribute("aria-sort") == "descending"
        assert sight.complaints == []


def test_keyboard_reaches_and_works_everything(scene: Scene, browser: Browser) -> None:
    with browser.look(scene.job) as sight:
        page = sight.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        assert page.locator(".skip").bounding_box()["x"] >= 0  # type: ignore[index]
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        reached = []
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"{reached[-1]} has the focus and nobody can see it"
            if reached[-1] == "Address":
                break
        assert {"search", "filter", "Line", "The same in figures"} <= set(reached)
        page.keyboard.press("Enter")
        assert shown(page)[0] == "to0@domain0.example"
        assert page.locator("th[aria-sort=ascending]").inner_text() == "Address"


def test_hostile_words_stay_words(scene: Scene, browser: Browser) -> None:
    for name, path in scene.pages.items():
        for scripts in (True, False):
            with browser.look(path, java_script_enabled=scripts) as sight:
                page = sight.page
                if scripts:
                    for element in page.locator("input:visible, select:visible, summary").all():
                        element.focus()
                    assert page.evaluate("window.owned") is None, name
                    assert page.evaluate("document.scripts.length") == 1
                    assert page.evaluate(
                        "[...document.querySelectorAll('*')].flatMap((e) => [...e.attributes])"
                        ".filter((a) => a.name.startsWith('on')).length"
                    ) == 0  # fmt: skip
                assert page.locator("img, iframe, object, embed, base").count() == 0
                assert sight.complaints == [], name
    with browser.look(scene.hostile) as sight:
        text = sight.page.locator("body").inner_text()
        assert text.count(SCRIPT) >= 3, "the words are shown"
        assert "{{ 7 * 7 }}" in text
    with browser.look(scene.rejected) as sight:
        assert SCRIPT in sight.page.locator("body").inner_text()
    with browser.look(scene.spool / "index.html") as sight:
        assert "onerror=" in sight.page.locator("main").inner_text()


def test_policy_stops_what_would_come_through_all_the_same(scene: Scene, browser: Browser, tmp_path: Path) -> None:
    """The last wall: were the escaping ever to fail, nothing would run and nothing be fetched."""
    document = scene.job.read_text()
    broken = tmp_path / "broken.html"
    (tmp_path / "image.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    broken.write_text(
        document.replace(
            "<main",
            f"{SCRIPT}<img src=image.svg onload='window.owned=1' onerror='window.owned=1'><style>body{{}}</style><main",
        )
    )
    with browser.look(broken) as sight:
        sight.page.wait_for_load_state("networkidle")
        assert sight.page.evaluate("window.owned") is None
        assert sight.fetched == [broken.as_uri()]
        assert sum("Content Security Policy" in complaint for complaint in sight.complaints) >= 3
        assert len(shown(sight.page)) == 100, "the page's own script ran"


def test_links_between_the_pages_hold_and_a_copy_has_none_that_fail(
    scene: Scene, browser: Browser, tmp_path: Path
) -> None:
    with browser.look(scene.spool / "index.html") as sight:
        page = sight.page
        rows = page.locator(".jobs tbody tr").all_inner_texts()
        assert {row.split()[0]: row.split()[1] for row in rows} == {
            "job": "waiting", "hostile": "finished", "rejected": "rejected",
        }  # fmt: skip
        assert "expect" in page.locator("tr", has_text="half").inner_text()
        page.get_by_role("link", name="job", exact=True).click()
        assert page.url == scene.job.as_uri()
        for link in page.locator("footer a").all():
            assert (scene.job.parent / (link.get_attribute("href") or "")).is_file()
        page.get_by_role("link", name="All jobs").click()
        assert page.url == (scene.spool / "index.html").as_uri()
    copy = tmp_path / "report"
    shutil.copytree(scene.job.parent, copy)
    with browser.look(copy / "index.html") as sight:
        assert sight.page.get_by_text("All jobs").is_hidden()
        assert len(shown(sight.page)) == 100


def test_page_moves_with_the_job_and_is_exact_where_it_arrives(tmp_path: Path, relay: Relay) -> None:
    with Agent(tmp_path, relay.port) as agent:
        relay.rules.append(Rule(Command.RCPT, Reply("450 4.2.1 later"), match="to3@", times=1))
        agent.start()
        agent.drop("job", [f"to{n}@one.example" for n in range(12)])

        def arrived(folder: str) -> str | None:
            path = agent.spool / folder / "job"
            return (path / "report/index.html").read_text() if path.is_dir() else None

        page = wait_for(lambda: arrived("deferred"), what="the job in deferred/")
        assert "<title>job · waiting 91.6% · spoold</title>" in page
        assert page.count('class="badge deferred"') == 2  # the reason, and the recipient
        assert agent.command("retry", "job").returncode == 0
        page = wait_for(lambda: arrived("done"), what="the job in done/")
        assert "<title>job · finished · spoold</title>" in page
        assert page.count('class="badge sent"') == 12
        assert "12 of 12 recipients done" in page


def test_page_follows_a_job_that_stays_where_it_is(tmp_path: Path, relay: Relay) -> None:
    with Agent(tmp_path, relay.port) as agent:
        agent.start()
        agent.drop("job", [f"to{n}@one.example" for n in range(500)], manifest={"rate": "4/s"})
        path = agent.spool / "active/job/report/index.html"

        def done() -> int:
            try:
                found = re.search(r"(\d+) of 500 recipients done", path.read_text())
            except FileNotFoundError:
                return 0
            return int(found[1]) if found else 0

        first = wait_for(done, what="a page with progress")
        wait_for(lambda: done() > first, what="a newer page")
        path.unlink()
        wait_for(done, what="the page that was removed")
        # After a kill the chart is put together again from all attempts.
        agent.kill()
        agent.start()
        wait_for(lambda: done() > first + 20, timeout=30, what="a page after the kill")
        assert agent.stop() == 0
        tried = len(agent.attempts("job"))
        table = re.search(r"<details>.*</details>", path.read_text(), re.DOTALL)
        assert table is not None
        assert sum(map(int, re.findall(r'<td class="n">(\d+)</td>', table[0]))) == tried

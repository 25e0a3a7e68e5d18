"""The layout of the page, in Gradio, and what its buttons do."""

from pathlib import Path
from typing import Any

import gradio as gr

from hub_scripts.app_page import cards
from hub_scripts.app_page.session import Session
from hub_scripts.common.terminal import one_line


__all__ = ["LOOK", "layout"]

HERE = Path(__file__).parent
CSS = (HERE / "page.css").read_text(encoding="utf-8")
ON_CLICK = (HERE / "page.js").read_text(encoding="utf-8")
FONTS = {"font": ["ui-sans-serif", "system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
# Arguments of `launch`.
LOOK = {"css": CSS, "theme": gr.themes.Base(primary_hue="indigo", neutral_hue="slate", **FONTS)}

FEWEST, MOST, AT_FIRST = 1, 60, 12
EMPTY = '<p class="empty">Type some words, or drop an image, or both. A click on a result finds more like it.</p>'
NOTHING = "Give an image, or click a result."
MEMORY = (
    "The model reads the image once and answers from its compression tokens alone, without the image. "
    "Answers are learnt in stage 1."
)
QUIET = {"api_visibility": "private", "show_progress": "minimal"}
EXPECTED = (ValueError, OSError)  # what bad input raises; the line that says so leaves the results as they are
SECONDS = 3600  # that an image which was given is kept


def layout(session: Session) -> gr.Blocks:
    """The page of a session."""
    options = {"fill_width": True, "analytics_enabled": False, "delete_cache": (SECONDS, SECONDS)}
    with gr.Blocks(title=f"CoMa: {one_line(session.index.path.name)}", **options) as page:
        gr.HTML(cards.heading(session), elem_id="heading")
        chosen = gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=300):
                words = gr.Textbox(label="Words", placeholder="a red apple", lines=1, elem_id="words")
                upload = _image()
                k = gr.Slider(FEWEST, MOST, AT_FIRST, step=1, label="Results", elem_id="k", buttons=[])
                search = gr.Button("Search", variant="primary", elem_id="search")
                if session.can_answer:
                    _ask(session, chosen, upload)
            with gr.Column(scale=3, min_width=360):
                message = gr.HTML(elem_id="message")
                found = gr.HTML(EMPTY, elem_id="results", js_on_load=ON_CLICK)
        actions, outputs = Actions(session), [found, message, chosen]
        gr.on([search.click, words.submit], actions.search, [words, upload, k], outputs, **QUIET)
        gr.on([found.click], actions.more_like, [k], outputs, **QUIET)
    return page


def _image() -> gr.Image:
    """
    Where an image is given. Gradio hands on the path of its file: the processor decodes it, within its limits, and
    nobody else; and nothing is fetched from the network. (It is no class, for Gradio writes a file beside each.)
    """
    where = {"sources": ["upload", "clipboard"], "buttons": [], "height": 200}
    image = gr.Image(label="Image", type="filepath", elem_id="image", **where)
    keep = image.async_move_resource_to_block_cache

    async def keep_file(path: str | None) -> str | None:
        if "://" in str(path):
            raise ValueError("Nothing is fetched from the network.")
        return await keep(path)

    image.async_move_resource_to_block_cache = keep_file
    image.preprocess = lambda payload: None if payload is None else payload.path
    return image


def _ask(session: Session, chosen: gr.State, upload: gr.Image) -> None:
    """The part of the page that asks the memory of the image in hand: the one that was given or clicked last."""
    with gr.Column(elem_id="ask"):
        gr.HTML(f"<h3>Ask its memory</h3>{cards.note(MEMORY)}")
        hand = gr.HTML(cards.note(NOTHING), elem_id="hand")
        asks = {"placeholder": "What is drawn here?", "show_label": False, "container": False}
        question = gr.Textbox(label="Question", lines=1, elem_id="question", **asks)
        button = gr.Button("Ask", elem_id="ask-button")
        answer = gr.HTML(elem_id="answer")
    actions = Actions(session)
    gr.on([upload.upload, upload.clear], actions.hold, [upload], [chosen], **QUIET)
    gr.on([chosen.change], actions.show, [chosen], [hand, answer], **QUIET)
    gr.on([button.click, question.submit], actions.ask, [chosen, question], [answer], **QUIET)


class Actions:
    """What happens when something is clicked. Bad input is a line on the page, and what was found stays."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def search(self, words: str, upload: str | None, k: int) -> tuple[Any, str, Any]:
        """Results, no problem, and an image that was given as the one in hand; or a problem."""
        try:
            hits = self.session.search(words, upload, int(k))
            asked = cards.query(self.session, words, upload)
            return cards.results(self.session, hits, asked), "", gr.skip() if upload is None else self.hold(upload)
        except EXPECTED as error:
            return gr.skip(), cards.problem(error), gr.skip()

    def more_like(self, k: int, event: gr.EventData) -> tuple[Any, str, Any]:
        """The same for the row that was clicked, which anybody may say to have been any."""
        try:
            number = event._data.get("row") if isinstance(event._data, dict) else None
            if type(number) is not int:
                raise ValueError(f"A row is a number, not {number!r:.40}.")
            row, hits = self.session.more_like(number, int(k))
            return cards.results(self.session, hits, cards.more_like(self.session, row)), "", {"row": number}
        except EXPECTED as error:
            return gr.skip(), cards.problem(error), gr.skip()

    def hold(self, upload: str | None) -> dict[str, Any] | None:
        """Takes the image that was given in hand."""
        return None if upload is None else {"upload": upload}

    def show(self, chosen: dict[str, Any] | None) -> tuple[str, str]:
        """The image in hand, and no answer yet."""
        try:
            return cards.note(NOTHING) if chosen is None else cards.in_hand(*self.session.in_hand(chosen)), ""
        except EXPECTED as error:
            return cards.problem(error), ""

    def ask(self, chosen: dict[str, Any] | None, question: str) -> str:
        """What the memory of the image in hand answers."""
        try:
            return cards.answer_of(self.session.ask(self.session.in_hand(chosen)[1], question))
        except EXPECTED as error:
            return cards.problem(error)

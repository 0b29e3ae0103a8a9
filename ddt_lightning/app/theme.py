"""The look of the page: one accent colour, fonts of the visitor's system, light and dark, down to a phone's width."""

import gradio as gr

from ddt_lightning.report.style import COLOURS, lighter

ACCENT = COLOURS[0]
"""The accent of the project's reports."""
SHADES = ("#eef5fa", "#d9e9f4", "#b5d3e8", "#8bb9d9", "#6fb1e0", ACCENT, "#285f88", "#224f71", "#1c405b", "#163247",
          "#0f2230")  # fmt: skip


def theme() -> gr.themes.Base:
    """The theme; its fonts are names of installed ones, so that nothing is loaded for them."""
    hue = gr.themes.Color(*SHADES, name="ddt")
    sans = [gr.themes.Font(name) for name in ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")]
    mono = [gr.themes.Font(name) for name in ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")]
    return gr.themes.Base(
        primary_hue=hue, secondary_hue=hue, neutral_hue=gr.themes.colors.zinc, radius_size=gr.themes.sizes.radius_md,
        font=sans, font_mono=mono,
    ).set(
        body_background_fill="#fbfbfa", body_background_fill_dark="#161618", body_text_color="#1d1d1f",
        body_text_color_dark="#ececee", body_text_color_subdued="#66666c", body_text_color_subdued_dark="#a3a3ab",
        block_background_fill="#ffffff", block_background_fill_dark="#1e1e21", block_border_color="#e4e4e2",
        block_border_color_dark="#303036", block_shadow="none", block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent", input_background_fill="#ffffff",
        input_background_fill_dark="#1a1a1d", button_primary_background_fill=ACCENT,
        button_primary_background_fill_hover="#285f88", button_primary_background_fill_dark=ACCENT,
        button_primary_background_fill_hover_dark="#3b80b4", button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff", button_large_text_size="*text_md",
        button_large_padding="*spacing_md *spacing_lg", button_large_text_weight="600", button_small_text_weight="500",
        block_label_text_weight="500", slider_color=ACCENT, slider_color_dark="#6fb1e0",
    )  # fmt: skip


def css() -> str:
    """Styles of the pictures, and of the charts that the reports draw."""
    lines = {"light": COLOURS, "dark": [lighter(colour) for colour in COLOURS]}
    light, dark = (" ".join(f"--line-{n}: {one};" for n, one in enumerate(colours)) for colours in lines.values())
    return f"""
.gradio-container {{ --soft: #66666c; --line: #e4e4e2; --track: #ececea; --card: #ffffff; --accent: {ACCENT}; {light}
  max-width: 1120px !important; margin: 0 auto !important; font-variant-numeric: tabular-nums; }}
.dark .gradio-container, .gradio-container.dark, .dark {{ --soft: #a3a3ab; --line: #303036; --track: #2a2a2f;
  --card: #1e1e21; --accent: #6fb1e0; {dark} }}
{STYLE}"""


STYLE = """
.ddt-head { display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem 1rem; margin: .4rem 0 .2rem; }
.ddt-head h1 { font-size: 1.5rem; letter-spacing: -.02em; margin: 0; font-weight: 650; }
.ddt-head span { color: var(--soft); font-size: .88rem; }
.html-container { padding: 0 !important; }
.dark .tab-container button.selected { color: var(--accent) !important; }
.ddt-buttons { gap: .6rem !important; }
.ddt-buttons button { min-width: 5.5rem !important; white-space: nowrap; }
.ddt-note { color: var(--soft); font-size: .85rem; line-height: 1.45; margin: .3rem 0; overflow-wrap: anywhere; }
.ddt-empty { border: 1px dashed var(--line); border-radius: 10px; color: var(--soft); padding: 2.2rem 1.2rem;
  text-align: center; font-size: .9rem; line-height: 1.5; }
.ddt-figure { margin: 0; min-width: 0; }
.ddt-figure img { display: block; width: 100%; border-radius: 8px; background: var(--track); }
.ddt-figure img.pixels { image-rendering: pixelated; }
.ddt-figure figcaption { color: var(--soft); font-size: .8rem; line-height: 1.4; margin-top: .4rem;
  overflow-wrap: anywhere; }
.ddt-bar { display: block; height: 3px; background: var(--track); border-radius: 2px; margin-top: 6px; }
.ddt-bar u { display: block; height: 100%; background: var(--accent); border-radius: 2px; transition: width .15s; }
#draw-view .ddt-figure { max-width: 460px; margin: 0 auto; }
#draw-sketch .ddt-figure { max-width: 168px; }
#edit-source-view .ddt-figure, #ask-source-view .ddt-figure { max-width: 320px; }
#tokens-a-view .ddt-figure, #tokens-b-view .ddt-figure { max-width: 200px; }
.ddt-strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); gap: .7rem .6rem; }
.ddt-strip .ddt-figure { max-width: 128px; }
.ddt-pair { display: grid; grid-template-columns: 1fr 1fr; gap: .9rem; align-items: start; }
.ddt-four { display: grid; grid-template-columns: repeat(4, 1fr); gap: .9rem; align-items: start; }
.ddt-answers { list-style: none; margin: .4rem 0 0; padding: 0; }
.ddt-answers li { border-top: 1px solid var(--line); padding: .6rem 0; margin: 0; }
.ddt-answers span { display: block; color: var(--soft); font-size: .85rem; }
.ddt-answers b { font-weight: 600; font-size: 1.05rem; }
.ddt-card { border: 1px solid var(--line); border-radius: 10px; padding: .8rem; background: var(--card); }
.grid.wide { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: .9rem; }
.chart { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .5rem .6rem .3rem; }
.chart small { color: var(--soft); font-size: .8rem; }
.chart small span { white-space: nowrap; margin-left: .5rem; }
.chart svg { display: block; width: 100%; height: auto; }
.ddt-grid { margin: 1.2rem 0 0; }
.ddt-grid img { width: 100%; image-rendering: pixelated; border-radius: 8px; }
.ddt-grid figcaption { color: var(--soft); font-size: .8rem; }
.gradio-container h3 { font-size: 1rem; margin: .9rem 0 .2rem; font-weight: 600; }
@media (max-width: 640px) {
  .gradio-container { padding: .6rem !important; }
  .ddt-four { grid-template-columns: 1fr 1fr; }
  .tab-container button { padding: 0 .65rem !important; }
  .ddt-head h1 { font-size: 1.25rem; }
}
"""

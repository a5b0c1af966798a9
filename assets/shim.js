// Loaded before the widgets' embed.js. Makes widgets in a static page work with this theme, with MathJax 3,
// with a keyboard, and with a screen reader.

// Else the theme turns the icon of a Play button into an svg, which the widget then cannot find.
window.FontAwesomeConfig = { observeMutations: false };

// The widgets typeset their labels through MathJax 2's queue.
document.addEventListener("DOMContentLoaded", () => {
  if (!window.MathJax) return;
  const typeset = (element) => {
    MathJax.startup.promise = MathJax.startup.promise.then(() => MathJax.typesetPromise([element]));
  };
  MathJax.Hub = { Queue: (...calls) => calls.forEach(([, , element]) => typeset(element)) };
});

(() => {
  const set = (element, name, value) => {
    if (element && value && element.getAttribute(name) !== value) element.setAttribute(name, value);
  };
  const text = (element) => (element ? element.textContent.trim() : "");

  // A widget's description; without one its tooltip, or the text of the widget before it.
  const nameOf = (widget) =>
    text(widget.querySelector(":scope > .widget-label")) || widget.title || text(widget.previousElementSibling);

  const nameSlider = (slider) => {
    const name = nameOf(slider);
    const readout = slider.querySelector(".widget-readout");
    slider.querySelectorAll(".noUi-handle").forEach((handle) => {
      set(handle, "aria-label", name);
      set(handle, "aria-valuetext", text(readout) || handle.getAttribute("aria-valuenow"));
    });
    set(readout, "role", "textbox");
    set(readout, "aria-label", `${name} value`);
  };

  const nameGroup = (role) => (group) => {
    set(group, "role", role);
    set(group, "aria-label", nameOf(group));
    group.querySelectorAll("button").forEach((button) => {
      set(button, "aria-pressed", String(button.classList.contains("mod-active")));
    });
  };

  const nameField = (widget) => set(widget.querySelector("select, input, textarea"), "aria-label", nameOf(widget));

  const namePlay = (play) => {
    set(play, "role", "group");
    set(play, "aria-label", nameOf(play) || "Animation");
    const names = { "fa-play": "Play", "fa-pause": "Pause", "fa-stop": "Stop", "fa-retweet": "Repeat" };
    play.querySelectorAll("button").forEach((button) => {
      const icon = Object.keys(names).find((key) => button.querySelector(`.${key}`));
      set(button, "aria-label", names[icon]);
    });
  };

  // An accordion's header is a plain div: give it a role, a tab stop and the keys of a button.
  const nameHeader = (header) => {
    set(header, "role", "button");
    set(header, "tabindex", "0");
    set(header, "aria-expanded", String(!!header.closest(".jupyter-widget-Collapse-open")));
    header.onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      header.click();
    };
  };

  const RULES = {
    ".widget-slider": nameSlider,
    ".widget-toggle-buttons": nameGroup("group"),
    ".widget-radio": nameGroup("radiogroup"),
    ".widget-dropdown, .widget-select, .widget-text, .widget-checkbox": nameField,
    ".widget-play": namePlay,
    ".jupyter-widget-Collapse-header": nameHeader,
  };

  const nameAll = () => {
    document.querySelectorAll('.widget-label[title="null"]').forEach((label) => label.removeAttribute("title"));
    for (const [selector, rule] of Object.entries(RULES)) document.querySelectorAll(selector).forEach(rule);
  };

  document.addEventListener("DOMContentLoaded", () => {
    new MutationObserver(nameAll).observe(document.body, {
      childList: true,
      subtree: true,
      characterData: true,
      attributeFilter: ["class", "aria-valuenow"],
    });
    nameAll();
  });
})();

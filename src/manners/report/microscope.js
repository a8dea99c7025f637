// Opens a rollout to the token: the chosen quantity as colours, and all numbers of the token under the pointer or the keyboard.
(() => {
  const template = document.getElementById("lens");
  if (!template) return;
  document.getElementById("first-lens").hidden = true;
  const quantities = Array.from(template.content.querySelectorAll("input"), (input) => ({
    key: input.value,
    centre: Number(input.dataset.centre),
    sided: "sided" in input.dataset,
    limits: input.dataset.limits.split(" ").map(Number),
  }));
  const opened = [];
  let chosen = 0;

  const written = (value) => (value === null || value === undefined ? "–" : String(value).replace("-", "−"));
  const chance = (value) => {
    const percent = 100 * Math.exp(value);
    return ` (${percent >= 1 || percent === 0 ? Math.round(percent) : percent.toPrecision(1)} %)`;
  };

  const colour = (value, { centre, sided, limits }) => {
    if (value === null || value === undefined) return "";
    const strength = limits.filter((limit) => Math.abs(value - centre) >= limit - 1e-9).length;
    const side = !sided ? "s" : value > centre ? "p" : "n";
    return strength ? `${side}${strength}` : "";
  };

  // A lens over one rollout: made when it is first opened, painted whenever another quantity is chosen.
  const lensOver = (rollout) => {
    const trace = JSON.parse(rollout.dataset.trace);
    const line = rollout.querySelector(".tokens p");
    const tokens = Array.from(line.children);
    const parts = template.content.cloneNode(true);
    const top = parts.querySelector(".lens");
    const readout = parts.querySelector(".readout");
    const which = readout.querySelector(".which");
    const inputs = Array.from(top.querySelectorAll("input"));
    let current = 0;
    for (const token of tokens) token.tabIndex = -1;

    const paint = () => {
      inputs[chosen].checked = true;
      for (const reading of [...top.querySelectorAll("[data-key]"), ...readout.querySelectorAll("[data-key]")]) {
        reading.classList.toggle("chosen", reading.dataset.key === quantities[chosen].key);
      }
      tokens.forEach((token, place) => {
        const value = trace[chosen] ? trace[chosen][place] : null;
        token.className = colour(value, quantities[chosen]);
      });
      tokens[current].classList.add("current");
    };

    const look = (place) => {
      tokens[current].classList.remove("current");
      tokens[current].tabIndex = -1;
      current = place;
      tokens[current].classList.add("current");
      tokens[current].tabIndex = 0;
      const text = tokens[place].textContent.replaceAll("⏎\n", "⏎").replaceAll(" ", "␣");
      which.textContent = `Token ${place + 1} of ${tokens.length}: `;
      which.append(Object.assign(document.createElement("b"), { textContent: text }));
      quantities.forEach(({ key }, at) => {
        const value = trace[at] ? trace[at][place] : null;
        const told = typeof value === "number" && key.endsWith("logp") ? chance(value) : "";
        readout.querySelector(`[data-key="${key}"] dd`).textContent = written(value) + told;
      });
    };

    for (const input of inputs) {
      input.name = `colour-${opened.length}`;
      input.addEventListener("change", () => {
        chosen = inputs.indexOf(input);
        opened.forEach((paintOther) => paintOther());
      });
    }
    const here = (event) => tokens.indexOf(event.target);
    // A page that scrolls under a resting pointer must not take the view from the keyboard.
    const rests = (event) => event.type === "pointermove" && event.movementX === 0 && event.movementY === 0;
    for (const kind of ["pointermove", "click", "focusin"]) {
      line.addEventListener(kind, (event) => {
        const place = here(event);
        if (place >= 0 && place !== current && !rests(event)) look(place);
      });
    }
    line.addEventListener("keydown", (event) => {
      const last = tokens.length - 1;
      const goes = { ArrowRight: current + 1, ArrowLeft: current - 1, Home: 0, End: last }[event.key];
      if (goes === undefined) return;
      event.preventDefault();
      tokens[Math.min(Math.max(goes, 0), last)].focus();
    });
    line.setAttribute("role", "group");
    line.setAttribute("aria-label", "Tokens; the arrow keys go from one to the next");
    line.parentElement.before(top);
    line.parentElement.after(readout);
    look(0);
    opened.push(paint);
    paint();
  };

  for (const rollout of document.querySelectorAll(".rollout[data-trace]")) {
    rollout.addEventListener("toggle", () => lensOver(rollout), { once: true });
  }
})();

// The ranking screen: keys, dragging, undo, drafts, and sending an answer so that none is lost.
// The form works without this file; everything here only moves what the form holds.
function start(form) {
  document.documentElement.dataset.script = "";
  const screen = new Screen(form);
  const drafts = new Drafts(form, screen);
  const clock = new Clock(form);
  const post = new Post(form, screen, drafts, clock);
  screen.onchange = () => drafts.later();
  listenToKeys(screen, switchSingleKeys());
  openHelpAndGuideline();
  drafts.restore();
  post.resume();
  screen.draw();
}

// What the form holds, as text; and back.

const NOT_KEPT = ["csrf", "revises", "guideline_id", "action"];

function snapshot(form) {
  const fields = new URLSearchParams(new FormData(form));
  for (const name of NOT_KEPT) fields.delete(name);
  return fields.toString();
}

function restore(form, text) {
  const fields = new URLSearchParams(text);
  for (const field of form.elements) {
    if (!field.name || NOT_KEPT.includes(field.name) || field.tagName === "BUTTON" || field.tagName === "FIELDSET") continue;
    const values = fields.getAll(field.name);
    if (field.type === "radio" || field.type === "checkbox") field.checked = values.includes(field.value);
    else if (fields.has(field.name)) field.value = values[0];
  }
}

// The page: cards, the board of ranks, what is marked, undo.

class Screen {
  constructor(form) {
    this.form = form;
    this.mode = form.dataset.mode;
    this.cards = [...form.querySelectorAll(".card")];
    this.marked = 0;
    this.lastRank = 0;
    this.history = [];
    this.now = snapshot(form);
    this.onchange = () => {};
    this.undoButton = document.getElementById("undo");
    this.undoButton.hidden = false;
    this.undoButton.addEventListener("click", () => this.undo());
    form.addEventListener("change", (event) => this.changed(event.target));
    form.addEventListener("input", () => this.onchange());
    for (const card of this.cards) card.addEventListener("focusin", () => this.mark(Number(card.dataset.place), false));
    for (const card of this.cards) card.addEventListener("pointerdown", () => this.mark(Number(card.dataset.place), false));
    this.board = this.mode === "rank" ? new Board(this) : null;
    if (this.mode !== "pair") this.mark(0, false);
  }

  changed(field) {
    if (field.name === "base") this.offerText(field);
    const after = snapshot(this.form);
    if (after !== this.now) {
      this.history.push(this.now);
      this.now = after;
      this.onchange();
    }
    this.draw();
  }

  undo() {
    if (!this.history.length) return;
    this.now = this.history.pop();
    restore(this.form, this.now);
    this.now = snapshot(this.form);
    this.onchange();
    this.draw();
    announce("undone");
  }

  // The whole form at once, from a draft.
  fill(text) {
    restore(this.form, text);
    this.now = snapshot(this.form);
    this.draw();
  }

  choose(name, value) {
    const field = [...this.form.elements].find((f) => f.name === name && f.value === String(value));
    if (!field) return false;
    field.checked = true;
    this.changed(field);
    return true;
  }

  toggle(name) {
    const field = this.form.elements[name];
    if (!field) return;
    field.checked = !field.checked;
    this.changed(field);
  }

  rankOf(place) {
    const chosen = this.form.querySelector(`input[name="rank-${place}"]:checked`);
    return chosen ? Number(chosen.value) : 0;
  }

  rank(place, rank) {
    if (rank) this.lastRank = rank;
    this.choose(`rank-${place}`, rank || "");
    announce(`${this.cards[place].dataset.label}: ${rank ? `rank ${rank}` : "no rank"}`);
  }

  mark(place, focus = true) {
    this.marked = Math.max(0, Math.min(this.cards.length - 1, place));
    for (const card of this.cards) card.classList.toggle("marked", Number(card.dataset.place) === this.marked);
    if (focus) {
      this.cards[this.marked].focus({ preventScroll: true });
      this.cards[this.marked].scrollIntoView({ block: "nearest" });
    }
  }

  markNextUnranked() {
    const after = [...this.cards.keys()].map((k) => (this.marked + 1 + k) % this.cards.length);
    const next = after.find((place) => !this.rankOf(place));
    if (next !== undefined) this.mark(next);
  }

  // Editing starts from the words of the answer that was chosen, unless something was written already.
  offerText(field) {
    const written = this.form.elements.edited;
    const offered = this.cards.map((card) => card.querySelector("template").content.textContent);
    if (!written.value.trim() || offered.includes(written.value)) written.value = offered[Number(field.value)];
  }

  draw() {
    this.undoButton.disabled = !this.history.length;
    for (const card of this.cards) {
      const rank = this.mode === "rank" ? this.rankOf(Number(card.dataset.place)) : 0;
      card.dataset.rank = rank || "";
    }
    if (this.board) this.board.draw();
  }
}

// The board: a place for every rank; answers are dragged between them, with the mouse or a finger.

class Board {
  constructor(screen) {
    this.screen = screen;
    this.element = document.getElementById("board");
    this.element.hidden = false;
    this.element.style.setProperty("--ranks", screen.cards.length);
    this.slots = [];
    for (let rank = 1; rank <= screen.cards.length; rank++) this.slots.push(this.slot(rank, String(rank)));
    this.slots.push(this.slot(0, "not ranked"));
    this.chips = screen.cards.map((card) => this.chip(card));
  }

  slot(rank, words) {
    const slot = document.createElement("div");
    slot.className = rank ? "slot" : "slot unranked";
    slot.dataset.rank = rank;
    const name = document.createElement("span");
    name.textContent = words;
    slot.append(name);
    this.element.append(slot);
    return slot;
  }

  chip(card) {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.className = "chip";
    chip.textContent = card.dataset.label;
    const place = Number(card.dataset.place);
    let from = null;
    chip.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX, y: event.clientY, moved: false };
      chip.setPointerCapture(event.pointerId);
    });
    chip.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [x, y] = [event.clientX - from.x, event.clientY - from.y];
      from.moved = from.moved || Math.hypot(x, y) > 6;
      if (!from.moved) return;
      chip.style.transform = `translate(${x}px, ${y}px)`;
      chip.classList.add("dragged");
      const over = this.under(event);
      for (const slot of this.slots) slot.classList.toggle("over", slot === over);
    });
    const end = (event) => {
      if (!from) return;
      const over = from.moved && event.type === "pointerup" ? this.under(event) : null;
      const clicked = !from.moved && event.type === "pointerup";
      from = null;
      chip.style.transform = "";
      chip.classList.remove("dragged");
      for (const slot of this.slots) slot.classList.remove("over");
      if (over) this.screen.rank(place, Number(over.dataset.rank));
      if (clicked) this.screen.mark(place);
    };
    chip.addEventListener("pointerup", end);
    chip.addEventListener("pointercancel", end);
    chip.addEventListener("click", (event) => { if (event.detail === 0) this.screen.mark(place); });
    return chip;
  }

  under(event) {
    return document.elementsFromPoint(event.clientX, event.clientY).find((e) => this.slots.includes(e)) || null;
  }

  draw() {
    this.chips.forEach((chip, place) => {
      const rank = this.screen.rankOf(place);
      const slot = this.slots[rank ? rank - 1 : this.slots.length - 1];
      if (chip.parentElement !== slot) slot.append(chip);
      chip.setAttribute("aria-label", `Answer ${chip.textContent}, ${rank ? `rank ${rank}` : "not ranked"}`);
    });
  }
}

// Time at work: the page is in view and something happened within the last half minute.

class Clock {
  constructor(form) {
    this.field = form.elements.active_ms;
    this.last = this.heard = Date.now();
    for (const kind of ["keydown", "pointerdown", "pointermove", "scroll", "input"]) {
      addEventListener(kind, () => { this.heard = Date.now(); }, { passive: true });
    }
    setInterval(() => this.tick(), 1000);
  }

  tick() {
    const now = Date.now();
    if (!document.hidden && now - this.heard < 30000) {
      const worked = Math.min(now - this.last, 2000);
      this.field.value = Number(this.field.value) + worked;
      const session = Number(sessionStorage.getItem("manners:worked") || 0) + worked;
      sessionStorage.setItem("manners:worked", session);
      if (session > 45 * 60000) document.getElementById("rest").hidden = false;
    } else if (now - this.heard > 5 * 60000) {
      sessionStorage.setItem("manners:worked", 0);
    }
    this.last = now;
  }
}

// Drafts: sent a moment after every change; kept on this device until the server has them.

class Drafts {
  constructor(form, screen) {
    this.form = form;
    this.screen = screen;
    this.key = `manners:draft:${form.dataset.draft}`;
    this.timer = null;
    this.off = false;
    document.addEventListener("visibilitychange", () => { if (document.hidden && this.timer) this.save(true); });
    addEventListener("online", () => { if (localStorage.getItem(this.key)) this.save(); });
  }

  restore() {
    const kept = localStorage.getItem(this.key);
    if (kept) {
      this.screen.fill(kept);
      this.later();
    }
  }

  later() {
    if (this.off) return;
    localStorage.setItem(this.key, snapshot(this.form));
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.save(), 800);
  }

  async save(leaving = false) {
    clearTimeout(this.timer);
    this.timer = null;
    if (this.off) return;
    const text = snapshot(this.form);
    try {
      const answer = await send(this.form, this.form.dataset.draft, new URLSearchParams(text), leaving);
      if (answer.ok && localStorage.getItem(this.key) === text) localStorage.removeItem(this.key);
      say(answer.ok ? "Draft saved" : "Draft kept on this device");
    } catch {
      say("No connection: draft kept on this device");
    }
  }

  stop() {
    this.off = true;
    clearTimeout(this.timer);
    localStorage.removeItem(this.key);
  }
}

// Handing in: sent again until the server says that it has it. The key in the form makes it count once.

class Post {
  constructor(form, screen, drafts, clock) {
    this.form = form;
    this.screen = screen;
    this.drafts = drafts;
    this.clock = clock;
    this.key = `manners:answer:${form.getAttribute("action")}`;
    this.pause = 1000;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.clock.tick();
      const fields = new URLSearchParams(new FormData(form, event.submitter));
      if (!fields.has("action")) fields.set("action", "submit");
      this.send(fields);
    });
    addEventListener("online", () => this.again());
  }

  // An answer that this device could not deliver before the page was left.
  resume() {
    const kept = localStorage.getItem(this.key);
    if (!kept) return;
    this.screen.fill(kept);
    this.send(new URLSearchParams(kept));
  }

  again() {
    if (this.waiting) {
      clearTimeout(this.timer);
      const fields = this.waiting;
      this.waiting = null;
      this.send(fields);
    }
  }

  async send(fields) {
    if (this.busy) return;
    this.busy = true;
    trouble("");
    localStorage.setItem(this.key, fields.toString());
    try {
      const answer = await send(this.form, this.form.getAttribute("action"), fields);
      if (answer.status >= 500) throw new Error(String(answer.status));
      const told = await answer.json().catch(() => ({}));
      // A page of a hotel's network says "ok", too, and has taken nothing.
      if (answer.ok && !told.submission) throw new Error("not from our server");
      localStorage.removeItem(this.key);
      if (answer.ok) {
        this.drafts.stop();
        location.assign(told.next);
        return;
      }
      trouble(told.error || "This could not be taken.");
    } catch {
      trouble("No connection. Your answer is kept on this device and is sent as soon as the connection is back.");
      this.waiting = fields;
      this.timer = setTimeout(() => this.again(), this.pause);
      this.pause = Math.min(this.pause * 2, 30000);
    } finally {
      this.busy = false;
    }
  }
}

function send(form, address, fields, keepalive = false) {
  fields.set("csrf", form.elements.csrf.value);
  return fetch(address, { method: "POST", body: fields, headers: { Accept: "application/json" }, keepalive, redirect: "error" });
}

// Keys

// Letters and numbers act only while the person wants them to: who dictates, or hits keys by accident, switches them off.
function switchSingleKeys() {
  const name = "manners:single-keys";
  const field = document.getElementById("single-keys");
  const show = () => document.documentElement.toggleAttribute("data-no-single-keys", !field.checked);
  field.checked = localStorage.getItem(name) !== "off";
  field.addEventListener("change", () => {
    localStorage.setItem(name, field.checked ? "on" : "off");
    show();
  });
  show();
  return () => field.checked;
}

function listenToKeys(screen, single) {
  const help = document.getElementById("help");
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return submit(screen.form, event);
    if (event.ctrlKey || event.metaKey || event.altKey || help.open || isWriting(event.target)) return;
    if (event.key.length === 1 && !single()) return;
    if (event.key === "Enter") {
      if (!event.target.closest("button, summary, a")) submit(screen.form, event);
    } else if (!event.target.matches("input[type=radio]") && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      if (event.target.closest(".card") || event.target === document.body) {
        screen.mark(screen.marked + (event.key === "ArrowDown" ? 1 : -1));
        event.preventDefault();
      }
    } else if (onKey(screen, event.key)) {
      event.preventDefault();
    }
  });
}

function isWriting(target) {
  return target.matches("textarea, select, input:not([type=radio]):not([type=checkbox])");
}

function submit(form, event) {
  event.preventDefault();
  form.requestSubmit(form.querySelector("button.main"));
}

function onKey(screen, key) {
  switch (key) {
    case "j": screen.mark(screen.marked + 1); return true;
    case "k": screen.mark(screen.marked - 1); return true;
    case "u": screen.undo(); return true;
    case "g": document.getElementById("show-guideline").click(); return true;
    case "?": document.getElementById("help").showModal(); return true;
    case "s":
      document.getElementById("skipping").open = true;
      screen.form.elements.skip_reason.focus();
      return true;
    default: return MODE_KEYS[screen.mode](screen, key);
  }
}

const MODE_KEYS = {
  rank(screen, key) {
    const number = /^[0-9]$/.test(key) ? Number(key) : -1;
    if (key === "b") screen.toggle("all_bad");
    else if (key === "=" && screen.lastRank) screen.rank(screen.marked, screen.lastRank);
    else if (number >= 0 && number <= screen.cards.length) screen.rank(screen.marked, number);
    else return false;
    if (key !== "b" && key !== "0") screen.markNextUnranked();
    return true;
  },
  pair(screen, key) {
    const at = "1234567890".indexOf(key);
    const value = key === "=" ? "tie" : key === "b" ? "bad" : ["A4", "A3", "A2", "A1", "tie", "B1", "B2", "B3", "B4", "bad"][at];
    return value !== undefined && screen.choose("preference", value);
  },
  ratings(screen, key) {
    if (key === "b") { screen.toggle("all_bad"); return true; }
    if (!/^[1-5]$/.test(key)) return false;
    const sets = [...screen.cards[screen.marked].querySelectorAll("fieldset.steps")];
    const open = sets.find((set) => !set.querySelector("input:checked"));
    if (!open) return false;
    screen.choose(open.querySelector("input").name, key);
    if (open === sets[sets.length - 1]) screen.mark(screen.marked + 1);
    return true;
  },
  thumbs(screen, key) {
    if (key !== "+" && key !== "-") return false;
    screen.choose(`thumb-${screen.marked}`, key === "+" ? "up" : "down");
    screen.mark(screen.marked + 1);
    return true;
  },
  edit(screen, key) {
    if (key !== "e") return false;
    screen.choose("base", screen.marked);
    screen.form.elements.edited.focus();
    return true;
  },
};

// Help and guideline

function openHelpAndGuideline() {
  const help = document.getElementById("help");
  const openHelp = document.getElementById("show-help");
  openHelp.hidden = false;
  openHelp.addEventListener("click", () => help.showModal());
  const drawer = document.getElementById("guideline");
  const opener = document.getElementById("show-guideline");
  opener.hidden = false;
  drawer.hidden = true;
  drawer.tabIndex = -1;
  let before = opener;
  const turn = (open) => {
    if (open) before = document.activeElement === document.body ? opener : document.activeElement;
    drawer.hidden = !open;
    opener.setAttribute("aria-expanded", String(open));
    (open ? drawer : before).focus({ preventScroll: true });
  };
  opener.addEventListener("click", () => turn(drawer.hidden));
  const closer = document.getElementById("close-guideline");
  closer.hidden = false;
  closer.addEventListener("click", () => turn(false));
  drawer.addEventListener("keydown", (event) => { if (event.key === "Escape") turn(false); });
}

// Words to the person

function say(words) {
  document.getElementById("saved").textContent = words;
}

function announce(words) {
  say(words);
}

function trouble(words) {
  const place = document.getElementById("trouble");
  place.textContent = words;
  place.hidden = !words;
}

const task = document.getElementById("task");
if (task) start(task);

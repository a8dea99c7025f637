// Sorts, filters and searches the lists of the page. It is complete without this: everything is shown, in its first order.
for (const list of document.querySelectorAll(".list")) {
  const section = list.closest("section");
  const [sort, category, search] = ["sort", "category", "search"].map((name) => section.querySelector(`[name="${name}"]`));
  const count = section.querySelector(".count");
  const more = section.querySelector("button.more");
  const page = 10;
  const cards = Array.from(list.children);
  const words = new Map();
  let room = page;

  const value = (card, key) => (key in card.dataset ? Number(card.dataset[key]) : -Infinity);

  // The words of prompt and answers as somebody would look for them, made once and only if somebody does.
  const plain = (text) => text.replaceAll("⏎", "").toLowerCase().replace(/\s+/g, " ");
  const wordsOf = (card) => {
    if (!words.has(card)) {
      const texts = Array.from(card.querySelectorAll(".prompt, .answer"), (part) => plain(part.textContent));
      words.set(card, texts.join("\n"));
    }
    return words.get(card);
  };

  const arrange = () => {
    const down = !sort.value.startsWith("-");
    const key = sort.value.replace("-", "");
    const known = (card) => Number(value(card, key) !== -Infinity);
    const ordered = [...cards].sort((a, b) => {
      if (known(a) !== known(b)) return known(b) - known(a);
      if (!known(a)) return 0;
      return down ? value(b, key) - value(a, key) : value(a, key) - value(b, key);
    });
    const kind = category ? category.value : "";
    const sought = plain(search.value.trim());
    let matching = 0;
    for (const card of ordered) {
      const matches = (!kind || card.dataset.category === kind) && (!sought || wordsOf(card).includes(sought));
      if (matches) matching += 1;
      card.hidden = !matches || matching > room;
      list.append(card);
    }
    const visible = Math.min(room, matching);
    count.textContent = visible === matching ? `${matching} answers` : `${visible} of ${matching} answers`;
    more.parentElement.hidden = visible === matching;
  };

  const again = () => {
    room = page;
    arrange();
  };
  if (category) category.addEventListener("change", again);
  sort.addEventListener("change", again);
  search.addEventListener("input", again);
  more.addEventListener("click", () => {
    room += 2 * page;
    arrange();
  });
  sort.closest("p").hidden = false;
  arrange();
}

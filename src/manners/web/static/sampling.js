// How far a model is with the answers of a new batch. Without this file the page loads itself again every few seconds.
const bar = document.getElementById("sampling");
const words = document.getElementById("words");

async function look() {
  try {
    const answer = await fetch(bar.dataset.watch, { headers: { Accept: "application/json" }, redirect: "error" });
    const told = await answer.json();
    if (!answer.ok || told.state !== "running") {
      location.reload();
      return;
    }
    if (told.total) {
      bar.max = told.total;
      bar.value = told.done;
    }
    words.textContent = told.words + (told.total ? `: ${told.done} of ${told.total} answers` : "");
  } catch {
    words.textContent = "No connection to the server; trying again";
  }
  setTimeout(look, 1000);
}

look();

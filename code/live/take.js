// @ts-check
/** "with what it needs": a click copies the script; without this file, or where copying is not allowed, it downloads. */
document.addEventListener("click", async (event) => {
  const link = event.target instanceof Element ? /** @type {HTMLAnchorElement | null} */ (event.target.closest("a.weave-needs")) : null;
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || link.dataset.failed || !navigator.clipboard) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const words = (link.dataset.words ??= link.textContent ?? "");
  try {
    const answer = await fetch(link.href);
    if (!answer.ok) throw new Error(String(answer.status));
    await navigator.clipboard.writeText(await answer.text());
    link.textContent = "copied, with what it needs";
    setTimeout(() => { link.textContent = words; }, 2000);
  } catch {
    link.dataset.failed = "yes"; // the next click, and this one, go the plain way
    link.click();
  }
}, true);

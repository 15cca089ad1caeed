// The page ticks the clocks itself: the server has nothing to do while it computes.
setInterval(() => {
  for (const clock of document.querySelectorAll(".clock[data-ticks]")) {
    if (clock.shown !== clock.dataset.seconds) {
      clock.shown = clock.dataset.seconds;
      clock.began = performance.now() - 1000 * clock.shown;
    }
    clock.textContent = ((performance.now() - clock.began) / 1000).toFixed(1) + " s";
  }
}, 100);

// For keyboards and screen readers: what scrolls can be focused, and what the theme leaves without a name has one.
addEventListener("load", () => {
  document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code").forEach((box) => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0
  })
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search")
  document.querySelectorAll(".md-nav--secondary .md-nav").forEach((nav) => {
    nav.setAttribute("aria-label", `On this page: ${nav.getAttribute("aria-label")}`)
  })
  document.querySelectorAll(".md-code__nav").forEach((nav, number) => {
    nav.setAttribute("aria-label", `Code ${number + 1}`)
  })
})

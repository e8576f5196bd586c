// Pages opened by double click (file://) may start no worker; a hidden frame runs its script instead.
if (location.protocol === "file:") {
  // As between threads: a copy, and later.
  const send = (to, data) => setTimeout(() => to()?.(new MessageEvent("message", { data: structuredClone(data) })))
  window.Worker = class {
    constructor(script) {
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.srcdoc = `<script src="${script}"></script>`
      this.ready = new Promise(done => this.frame.onload = done)
      this.ready.then(() => this.frame.contentWindow.postMessage = data => send(() => this.onmessage, data))
      document.body.append(this.frame)
    }
    postMessage(data) {
      this.ready.then(() => send(() => this.frame.contentWindow?.onmessage, data))
    }
    terminate() {
      this.frame.remove()
    }
  }
}

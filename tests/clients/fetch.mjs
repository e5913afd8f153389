// Node's fetch: METHOD URL. Prints "HTTP status decision" and the body.
const [method, url] = process.argv.slice(2);
try {
  const response = await fetch(url, { method });
  console.log("HTTP", response.status, response.headers.get("x-leasehold-decision"));
  console.log(await response.text());
} catch (error) {
  console.log("FAILED", error.cause?.code ?? error.message);
}

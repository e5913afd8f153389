// Node's https: METHOD URL. Prints "HTTP status decision" and the body.
import https from "node:https";

const [method, url] = process.argv.slice(2);
const request = https.request(url, { method }, (response) => {
  console.log("HTTP", response.statusCode, response.headers["x-leasehold-decision"]);
  response.pipe(process.stdout);
});
request.on("error", (error) => console.log("FAILED", error.code));
request.end();

import { AppHost } from "./app_host";
import { HttpHost } from "./http_host";
import { Viewer } from "./viewer";

const host = window.parent === window ? new HttpHost() : new AppHost();
const viewer = new Viewer(host);
document.getElementById("app")!.replaceWith(viewer.element);
void viewer.start();

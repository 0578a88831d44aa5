(ns proof.proxies
  "The proxies that are drained, ours and others, by the same few verbs. What each needs stands in the options:
    proxy=entryway      admin=HOST:PORT  bin=PATH
    proxy=haproxy-MODE  runtime=SOCKET  config=FILE  pids=FILE
    proxy=envoy         config=FILE  start=COMMAND (with a number that no other process has)  admin-file=PREFIX"
  (:require [clojure.java.shell :as shell]
            [clojure.string :as str]
            [proof.checks :as checks :refer [options wait-for now]])
  (:import [java.net UnixDomainSocketAddress]
           [java.nio ByteBuffer]
           [java.nio.channels SocketChannel]
           [java.nio.file Files NoSuchFileException Path]))

(def limit-s "What an operator grants a drain: then what is left is cut." 10)

(defn- kind [& _] (keyword (first (str/split (:proxy @options) #"-"))))

(defmulti drain "No new connections to the zone; those that are open are to leave it." kind)
(defmulti ready "The zone is used again." kind)
(defmulti connections "How many connections or running requests the proxy has in the zone." kind)
(defmulti cut "Ends what is left in the zone, whatever it does." kind)
(defmulti replace-process
  "A new process takes over, the old one ends; what is left after `limit-s` is cut. How long it took, in ms."
  kind)

(defn- gone?
  "Whether a process has ended; one that nobody has waited for has."
  [pid]
  (try (str/includes? (String. (Files/readAllBytes (Path/of (str "/proc/" pid "/stat") (into-array String [])))) ") Z ")
       (catch NoSuchFileException _ true)))

(defn- until-gone [pid since]
  (wait-for (+ 20 limit-s) #(gone? pid))
  (- (now) since))

;; ---- entryway

(defmethod drain :entryway [zone] (checks/entryway "endpoint" "drain" zone))
(defmethod ready :entryway [zone] (checks/entryway "endpoint" "ready" zone))
(defmethod connections :entryway [zone] (checks/connections-to zone))
;; Its drain of a zone has no deadline: what is not empty at the limit is told as such.
(defmethod cut :entryway [_] nil)
(defmethod replace-process :entryway []
  (let [pid (second (re-find #"\"pid\":\s*(\d+)" (checks/admin-text "/v1/status")))
        since (now)
        [ok said] (checks/entryway "upgrade" "--max-drain" (str limit-s "s"))]
    (when-not ok (throw (ex-info said {})))
    (until-gone pid since)))

;; ---- HAProxy

(defn- tell
  "A command on HAProxy's runtime socket, and its answer."
  [command]
  (with-open [channel (SocketChannel/open (UnixDomainSocketAddress/of ^String (:runtime @options)))]
    (.write channel (ByteBuffer/wrap (.getBytes (str command "\n"))))
    (let [buffer (ByteBuffer/allocate 65536)]
      (while (not (neg? (.read channel buffer))))
      (String. (.array buffer) 0 (.position buffer)))))

(defmethod drain :haproxy [zone] (tell (str "set server zones/" zone " state drain")))
(defmethod ready :haproxy [zone] (tell (str "set server zones/" zone " state ready")))
(defmethod connections :haproxy [zone]
  (let [row (first (filter #(str/starts-with? % (str "zones," zone ",")) (str/split-lines (tell "show stat"))))]
    (parse-long (nth (str/split row #",") 4))))
(defmethod cut :haproxy [zone] (tell (str "shutdown sessions server zones/" zone)))
(defmethod replace-process :haproxy []
  (let [{:keys [config pids]} @options
        pid (str/trim (slurp pids))
        since (now)
        {:keys [exit err]} (shell/sh "haproxy" "-D" "-f" config "-p" pids "-sf" pid)]
    (when-not (zero? exit) (throw (ex-info err {})))
    (until-gone pid since)))

;; ---- Envoy: only its process; a cluster without a control plane has no verb for one endpoint.

(def ^:private generation (atom 1))

(defn- envoy-admin [number path]
  (checks/http (if (str/starts-with? path "/stats") "GET" "POST")
               (str "http://" (str/trim (slurp (str (:admin-file @options) number))) path)))

(defn- envoy-open [number]
  (->> (envoy-admin number "/stats?filter=%5Elistener%5C..*downstream_cx_active")
       (re-seq #"listener\.127\S*: (\d+)")
       (map #(parse-long (second %)))
       (reduce + 0)))

(defmethod replace-process :envoy []
  (let [old @generation
        new (swap! generation inc)
        since (now)
        {:keys [exit err]} (shell/sh (:start @options) (str new))]
    (when-not (zero? exit) (throw (ex-info err {})))
    (envoy-admin old "/drain_listeners")
    (wait-for limit-s #(zero? (envoy-open old)))
    (let [took (- (now) since)]
      (envoy-admin old "/quitquitquit")
      took)))

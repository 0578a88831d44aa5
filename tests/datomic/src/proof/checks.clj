(ns proof.checks
  "One line per check, `PASS|FAIL name evidence`, and the world the checks act on: zones and entryway."
  (:require [clojure.edn :as edn]
            [clojure.java.shell :as shell]
            [clojure.string :as str])
  (:import [java.net HttpURLConnection URL]))

(def ^:private counts (atom {:passed 0 :failed 0}))

(def options "What the command line said, as a map of keyword to text." (atom {}))

(defn report
  "One line; `:title` of the options, where there is one, in front of the name."
  [name ok evidence]
  (swap! counts update (if ok :passed :failed) inc)
  (println (if ok "PASS" "FAIL") (str (some-> (:title @options) (str ": ")) name) (str evidence))
  (flush)
  ok)

(defn explain
  "An exception in one short line; an anomaly by its category and message, or what it was made of where it has
  none. Jetty's message for an early end is a dump of the connection's state."
  [^Throwable t]
  (let [{:cognitect.anomalies/keys [category message] :as data} (ex-data t)
        ^Throwable made-of (or (:cognitect.http-client/throwable data) (ex-cause t))
        text (if category
               (str (name category) " " (or message (some-> made-of class .getName)))
               (str (.getName (class t)) ": " (ex-message t)))
        text (str/replace text #"HttpConnectionOver\S+.*" "early end of the connection")]
    (subs text 0 (min 160 (count text)))))

(defmacro check
  "Passes when `body` gives `[true evidence]`; an exception is a failure with its text as evidence."
  [name & body]
  `(let [[ok# evidence#] (try (do ~@body) (catch Throwable t# [false (explain t#)]))]
     (report ~name ok# evidence#)))

(defn finish
  "Prints the sum and returns the exit code."
  []
  (let [{:keys [passed failed]} @counts]
    (println (str passed " passed, " failed " failed"))
    (flush)
    (if (and (pos? passed) (zero? failed)) 0 1)))

(defn now [] (System/currentTimeMillis))

(defn wait-for
  "Polls until `(f)` is true; nil when `seconds` have passed first."
  [seconds f]
  (let [end (+ (now) (* 1000 seconds))]
    (loop []
      (or (f)
          (when (< (now) end) (Thread/sleep 50) (recur))))))

;; ---- the zones' control port

(defn http [method url]
  (let [c ^HttpURLConnection (.openConnection (URL. url))]
    (.setRequestMethod c method)
    (slurp (.getInputStream c))))

(defn make-database [db-name] (http "POST" (str (:control @options) "/databases/" db-name)))

(defn switch
  "Puts zones into `mode`; returns the time at which it began to act."
  [mode & zones]
  (let [at (now)]
    (doseq [zone zones]
      (http "POST" (str (:control @options) "/zones/" zone "?mode=" (name mode))))
    at))

(defn journal [] (edn/read-string (http "GET" (str (:control @options) "/journal"))))

;; ---- entryway's admin side

(defn admin-text [path] (http "GET" (str "http://" (:admin @options) path)))

(defn active?
  "Whether entryway prefers `zone` for new connections."
  [zone]
  (some #(and (str/starts-with? % "entryway_endpoint_active{")
              (str/includes? % (str "zone=\"" zone "\""))
              (str/ends-with? % " 1"))
        (str/split-lines (admin-text "/metrics"))))

(defn connections-to
  "How many connections entryway holds open to an endpoint."
  [endpoint]
  (count (re-seq (re-pattern (str "\"endpoint\":\"" endpoint "\"")) (admin-text "/v1/connections?limit=10000"))))

(defn- command
  "Runs the binary; whether it ended well, its result, and what it said beside."
  [& arguments]
  (let [{:keys [exit out err]} (apply shell/sh (:bin @options) arguments)]
    [(zero? exit) out (str "exit " exit " " (str/trim (str out err)))]))

(defn entryway
  "Runs a subcommand against the running instance; whether it ended well, and what it said."
  [& arguments]
  (let [[ok _ said] (apply command (concat arguments ["--admin" (:admin @options)]))] [ok said]))

(defn snippet-edn []
  (let [port (last (str/split (:endpoint @options) #":"))
        [ok out said] (command "snippet" "edn" "--peering" "--system" "proof-system" "--region" "us-east-1"
                               "--listen" (str "127.0.0.1:" port))]
    [ok (if ok out said)]))

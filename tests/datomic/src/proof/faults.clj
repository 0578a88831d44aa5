(ns proof.faults
  "Zones that go away in mid-run, seen from the application. Needs entryway between client and zones,
  started with own zone a, `failback.after` of a few seconds and short probe times."
  (:require [clojure.edn :as edn]
            [datomic.client.api :as d]
            [proof.basics :as basics]
            [proof.checks :refer [check report options switch journal now wait-for active? connections-to
                                  entryway snippet-edn]]
            [proof.load :as load]))

(defn- seconds [n] (Thread/sleep (long (* 1000 n))))

(defn- requests [] (:requests (journal)))

(defn- served
  "How many requests each zone got between two looks."
  [before after]
  (merge-with - after (select-keys before (keys after))))

(defn- prefer-a
  "Waits until entryway sends new connections to zone a again: each fault starts from there."
  [title]
  (report (str title ": zone a is preferred") (boolean (wait-for 30 #(active? "a"))) (str (requests)))
  ;; New connections shift over `failback.ramp`, which `run` sets to one second.
  (seconds 1.2))

(defn- one-zone
  "Loses zone a in `mode` for `away` seconds under load. `warned` is how long after the loss a
  transaction may still be sent into it: on connections that nobody has yet found dead."
  [mode away warned]
  (let [title (str "zone " (name mode))]
    (prefer-a title)
    (let [connection (basics/connect)
          finish (load/start connection)
          _ (seconds 3)
          lost-at (switch mode "a")
          before (requests)
          _ (seconds away)
          during (requests)
          _ (switch :ok "a")
          _ (seconds 1)
          records (finish)
          counts (served before during)]
      (report (str title ": the others took over") (pos? (+ (get counts "b" 0) (get counts "c" 0))) counts)
      ;; Doubt within 2 s, the waiting connections cut 5 s after the first failed probe, and the client
      ;; tries again 3 s later; the rest is for a busy machine. Left alone, it would wait for 60 s.
      (let [slowest (reduce max (map :took (filter #(= :read (:kind %)) records)))]
        (report (str title ": reads go on within 12 s") (< slowest 12000) (str slowest " ms")))
      (load/judge title connection records {:lost #{"a"} :since lost-at :until (+ lost-at warned)}))))

(defn- all-zones []
  (let [title "all zones down for 8 s"]
    (prefer-a title)
    (let [connection (basics/connect)
          finish (load/start connection)
          _ (seconds 3)
          lost-at (switch :refuse "a" "b" "c")
          _ (seconds 1)
          asked-at (now)
          ;; `d/client` asks once and never again: it must be held, not refused.
          newcomer (future (basics/connect))
          _ (seconds 7)
          _ (switch :ok "a" "b" "c")
          _ (seconds 4)
          records (finish)]
      (check (str title ": a client made in the meantime")
        (let [found (d/pull (d/db (deref newcomer 20000 nil)) [:item/name] [:item/id 11])]
          [(= {:item/name "name 11"} found) (str "asked at +" (- asked-at lost-at) " ms")]))
      (load/judge title connection records {:lost #{"a" "b" "c"} :since lost-at :until (+ lost-at 500)}))))

(defn- burst
  "Many short reads at once, so that the client opens connections that then come to rest."
  [connection]
  (basics/parallel 40 (fn [_] (d/pull (d/db connection) [:item/name] [:item/id 11]))))

(defn- drain []
  (let [title "drain and failback"]
    (prefer-a title)
    (let [connection (basics/connect)
          _ (load/write-large connection (random-uuid))
          finish (load/start connection load/demanding)
          _ (burst connection)
          _ (seconds 1)
          held (connections-to "a")
          _ (check (str title ": endpoint drain a") (entryway "endpoint" "drain" "a"))
          ;; Also those that are never quiet: each between two answers, the last behind a query of 3 s.
          _ (report (str title ": every connection leaves under load")
                    (boolean (wait-for 13 #(zero? (connections-to "a"))))
                    (str held " connections to a, then " (connections-to "a")))
          first-half (finish)
          before (requests)
          finish (load/start connection load/demanding)
          _ (seconds 3)
          between (served before (requests))
          _ (report (str title ": nothing goes to the drained zone") (zero? (get between "a" 0)) between)
          _ (check (str title ": endpoint ready a") (entryway "endpoint" "ready" "a"))
          _ (wait-for 20 #(active? "a"))
          _ (seconds 1.2)
          before (requests)
          _ (burst connection)
          _ (seconds 4)
          _ (burst connection)
          after (served before (requests))
          records (into first-half (finish))]
      (report (str title ": zone a serves again") (pos? (get after "a" 0)) after)
      (load/judge title connection records {:drained? true}))))

(defn- snippet
  "The client map that entryway prints, given to the client as it stands."
  []
  (check "snippet edn in the real client"
    (let [[ok text] (snippet-edn)
          found (d/pull (d/db (d/connect (d/client (edn/read-string text)) {:db-name (:db @options)}))
                        [:item/name] [:item/id 11])]
      [(and ok (= {:item/name "name 11"} found)) (:endpoint (edn/read-string text))])))

(def ^:private default-interval-s 5)
(def ^:private default-fall 3)

(defn errors
  "Zone a turns to 503 under clients that ask 50 times a second on each connection. Reads are tried again by
  the client, transactions are not, so these keep the pace up. Within `interval` × `fall` + 1 s of the
  defaults nobody is answered by zone a any more, though none of its connections is ever quiet."
  []
  (let [title "zone error"
        _ (prefer-a title)
        connection (basics/connect)
        last-in-a (atom 0)
        write (fn [connection mark]
                (try (load/write-once connection mark)
                     (catch clojure.lang.ExceptionInfo e
                       ;; An answer of the zone itself, not an early end.
                       (when-not (re-find #"503|not now" (str (ex-message e) (ex-data e))) (throw e))
                       (swap! last-in-a max (now))
                       true)))
        finish (load/start connection [[6 :read 14 load/read-once] [6 :write 14 write]])
        _ (seconds 3)
        turned-at (switch :error "a")
        bound (+ 1 (* default-interval-s default-fall))
        _ (seconds (+ 4 bound))
        before (requests)
        _ (seconds 2)
        late (served before (requests))
        _ (switch :ok "a")
        records (finish)
        seen (journal)
        {:keys [read write]} (group-by :kind (load/judge-unsent title seen records 1))
        failed (filter :error write)
        errors (frequencies (keep :error read))]
    (report (str title ": answered by a healthy zone in time") (< 0 (- @last-in-a turned-at) (* 1000 bound))
            (str "last 503 after " (- @last-in-a turned-at) " ms, " bound " s are allowed"))
    (report (str title ": none asks zone a after that") (zero? (get late "a" 0)) late)
    (report (str title ": reads") (not-any? :error read) (str (count read) " done " errors))
    ;; Those that crossed a close, among some dozens of connections, reached no zone.
    (report (str title ": transactions end in answers")
            (and (every? #(empty? (get-in seen [:transactions (:id %)])) failed) (<= (count failed) 3))
            (str (count write) " sent, " (count failed) " crossed a close"))))

(defn run
  "For client-cloud all faults. A TLS zone can be probed by TCP only, so for client-pro those that
  this can see. Silence first: it may take a zone out once in 30 s, and freeze is silence too."
  [client]
  (when (= "cloud" client) (snippet))
  (one-zone :silent 14 10000)
  (one-zone :refuse 6 500)
  (when (= "cloud" client)
    (drain)
    (one-zone :freeze 14 10000)
    (all-zones)))

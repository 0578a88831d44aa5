(ns proof.drains
  "Drains under a demanding load, counted the same way for every proxy.

  Options: those of `proof.proxies`, `rounds` of one zone drained and used again, `replacements` of the whole
  process, `log` (entryway's, which says which requests met a close), `table` (a file that gets a row).
  Only entryway's numbers are checked; the others stand beside them."
  (:require [clojure.string :as str]
            [datomic.client.api :as d]
            [proof.basics :as basics]
            [proof.checks :refer [check report options journal wait-for now]]
            [proof.load :as load]
            [proof.proxies :as proxies]))

(defn- dropped
  "Requests that entryway counts apart: they arrived while its FIN was on its way, and went nowhere."
  []
  (if-let [log (:log @options)]
    (count (re-seq #"\"http.dropped\":true" (slurp log)))
    0))

(defn- emptied
  "How long `zone` took to be empty; what is left at the limit is cut, and that took `:cut`."
  [zone]
  (let [since (now)]
    (if (wait-for proxies/limit-s #(zero? (proxies/connections zone)))
      (- (now) since)
      (do (proxies/cut zone) :cut))))

(defn- others [] (reduce + (map proxies/connections ["b" "c"])))

(def ^:private back-s "What is granted until all connections are in zone a again, a few each second." 45)

(defn- returned
  "How long it took until no connection was elsewhere than in zone a; those elsewhere are cut at the limit."
  []
  (let [since (now)]
    (if (wait-for back-s #(zero? (others)))
      (- (now) since)
      (do (run! proxies/cut ["b" "c"]) :cut))))

(defn- drain-round [_]
  (proxies/drain "a")
  (let [out (emptied "a")]
    (proxies/ready "a")
    {:out out :back (returned)}))

(defn- replace-round [_]
  (let [took (proxies/replace-process)]
    (Thread/sleep 2000)
    {:out (if (<= (* 1000 proxies/limit-s) took) :cut took)}))

(defn- times [values]
  (let [known (sort (remove #{:cut} values))
        cuts (count (filter #{:cut} values))]
    (str (if (seq known) (str (nth known (quot (count known) 2)) "/" (last known)) "never")
         (when (pos? cuts) (str " (" cuts " times cut)")))))

(defn- judge-ours [title connection records rounds apart]
  (let [seen (journal)
        failed (remove #(load/unsent? seen %) (filter :error records))
        crossed (filter #(and (= :write (:kind %)) (not= "wrong answer" (:error %))
                              (empty? (get-in seen [:transactions (:id %)])))
                        failed)]
    (report (str title ": 0 failed but for requests counted apart")
            (and (= (count crossed) (count failed)) (<= (count crossed) apart))
            (str (count records) " operations, " (count failed) " failed, " (count crossed) " reached no zone, "
                 apart " counted apart " (frequencies (map :error failed))))
    (report (str title ": every round emptied by itself") (not-any? #{:cut} (mapcat vals rounds))
            (str "median/longest ms: " (times (map :out rounds)) (when (:back (first rounds)) (str ", back " (times (map :back rounds))))))
    (load/judge title connection records {:drained? true :rounds (count rounds)})))

(defn- series
  "`n` rounds of `one-round` under load."
  [title n one-round]
  (let [connection (basics/connect)
        before (dropped)
        finish (load/start connection load/demanding)
        _ (Thread/sleep 3000)
        rounds (mapv one-round (range n))
        records (finish)
        errors (frequencies (keep :error records))
        apart (- (dropped) before)]
    (spit (:table @options)
          (str/join "\t" [(:proxy @options) title n (count records)
                          (reduce + (vals (dissoc errors "wrong answer" "hangs past its own timeout")))
                          (get errors "wrong answer" 0) (get errors "hangs past its own timeout" 0) apart
                          (times (map :out rounds)) (if (:back (first rounds)) (times (map :back rounds)) "-")
                          "\n"])
          :append true)
    (if (= "entryway" (:proxy @options))
      (judge-ours title connection records rounds apart)
      (println "note" title (:proxy @options) errors))))

(defn run []
  (let [{:keys [rounds replacements]} (update-vals (select-keys @options [:rounds :replacements]) parse-long)
        connection (basics/connect)]
    (check "the text that is read under load"
      [(load/write-large connection (random-uuid)) (count basics/texts)])
    (when (pos? rounds) (series "zone drains" rounds drain-round))
    (when (pos? replacements) (series "replacements" replacements replace-round))))

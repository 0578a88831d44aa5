(ns proof.flips
  "Many transactions while zones come and go, and the database's log read afterwards.

  Options: `transactions` that must be acknowledged, `flips` over which they are spread. A flip takes the
  zone that serves at that moment."
  (:require [datomic.client.api :as d]
            [proof.basics :as basics]
            [proof.checks :refer [report options switch journal now active?]]
            [proof.load :as load]))

(def ^:private writers 8)

(def ^:private flip-ms "What a flip takes: the zone is away for most of it." 3000)

(defn- mode-of
  "Mostly a process that dies. A frozen one is what applies a transaction after its client gave up."
  [i]
  (if (= 4 (mod i 5)) :freeze :refuse))

(defn- write-paced
  "Writers that together send `total` transactions in `duration` ms, and go on until `done?` and as many
  are acknowledged. Returns a function that waits for the records."
  [connection total duration done?]
  (let [records (atom [])
        acknowledged (atom 0)
        period (/ (* writers duration) total)
        writer (fn []
                 (while (not (and (done?) (<= total @acknowledged)))
                   (let [mark (random-uuid)
                         {:keys [error took] :as record} (load/timed :write mark #(load/write-once connection mark))]
                     (swap! records conj record)
                     (when-not error (swap! acknowledged inc))
                     (Thread/sleep (long (max 0 (- period took)))))))
        threads (doall (repeatedly writers #(future (writer))))]
    (fn [] (run! deref threads) @records)))

(defn- flip
  "Loses the zone that serves; the outage as `load/excuse` wants it."
  [i]
  (let [zone (or (first (filter active? ["a" "b" "c"])) "a")
        mode (mode-of i)
        since (switch mode zone)]
    (Thread/sleep (if (= :freeze mode) flip-ms 1500))
    (switch :ok zone)
    (Thread/sleep 1500)
    {:mode mode :lost #{zone} :since since :until (+ since (if (= :freeze mode) 10000 500))}))

(defn- log-of-marks
  "How often each mark was asserted, by the log of the database."
  [connection]
  (let [mark (:db/id (d/pull (d/db connection) [:db/id] :load/mark))]
    (frequencies (for [{:keys [data]} (d/tx-range connection {:limit -1})
                       {:keys [a v added]} data
                       :when (and added (= a mark))]
                   v))))

(defn run []
  (let [total (parse-long (:transactions @options))
        flips (parse-long (:flips @options))
        connection (basics/connect)
        before (log-of-marks connection)
        done (atom false)
        finish (write-paced connection total (* flips flip-ms) #(deref done))
        outages (mapv flip (range flips))
        _ (reset! done true)
        title (str total " transactions over " flips " zone flips")
        records (finish)
        seen (journal)
        records (load/judge-unsent title seen records flips)
        in-log (reduce dissoc (log-of-marks connection) (keys before))
        {acknowledged false failed true} (group-by #(some? (:error %)) records)
        excuses (frequencies (map (fn [record] (some #(load/excuse seen % record) outages)) failed))]
    (report (str title ": acknowledged") (<= total (count acknowledged))
            (str (count records) " sent, " (count acknowledged) " acknowledged; flips " (frequencies (map :mode outages))))
    (report (str title ": every acknowledged one is in the log once")
            (every? #(= 1 (get in-log (:id %))) acknowledged)
            (frequencies (map #(get in-log (:id %) 0) acknowledged)))
    (report (str title ": none is there twice, none unknown")
            (and (every? #{1} (vals in-log)) (every? (set (map :id records)) (keys in-log)))
            (str (count in-log) " in the log, " (count (filter #(get in-log (:id %)) failed)) " of them failed for the application"))
    (report (str title ": none reached two zones")
            (every? #(>= 1 (count (get-in seen [:transactions (:id %)]))) records) "by the zones' journal")
    (report (str title ": what failed was in a zone that went") (zero? (get excuses nil 0))
            (str (count failed) " failed: " excuses " " (frequencies (map :error failed))))))

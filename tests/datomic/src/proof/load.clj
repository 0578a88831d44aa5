(ns proof.load
  "An application under load, and the judgement over what it saw.

  Answers are compared with what they must be, because a client that gets a cut answer may take it
  for a success with an empty result. Each transaction writes a mark of its own and gives it as its
  tx-id, so that both the journal of the zones and the database can say what became of it."
  (:require [datomic.client.api :as d]
            [proof.basics :refer [items texts]]
            [proof.checks :refer [report explain journal now]]))

(defn read-once [connection i]
  (if (even? i)
    (= {:item/name "name 11"} (d/pull (d/db connection) [:item/name] [:item/id 11]))
    (= [[12 "name 12"]] (d/q '[:find ?id ?name :in $ ?id :where [?e :item/id ?id] [?e :item/name ?name]]
                             (d/db connection) 12))))

(defn- slow-once [connection _]
  (= [[items]] (d/q '[:find (count ?e) :in $ ?pause :where [?e :item/id]] (d/db connection) {:sleep-ms 3000})))

(defn- paused-once
  "An answer in two chunks, two seconds apart."
  [connection _]
  (= [[items]] (d/q '[:find (count ?e) :in $ ?pause :where [?e :item/id]] (d/db connection) {:pause-ms 2000})))

(defn write-large
  "1.2 MB up. Always the same, so that the database does not grow, and marked as every transaction is."
  [connection mark]
  (let [pages (map-indexed (fn [i text] {:load/page i :load/text text}) texts)
        {:keys [tx-data]} (d/transact connection {:tx-id mark :tx-data (cons {:load/mark mark} pages)})]
    (some #(= mark (:v %)) tx-data)))

(defn- read-large
  "1.2 MB down; needs one `write-large` before."
  [connection _]
  (= (set texts) (set (map first (d/q '[:find ?text :where [_ :load/text ?text]] (d/db connection))))))

(defn write-once [connection mark]
  (= 2 (count (:tx-data (d/transact connection {:tx-id mark :tx-data [{:load/mark mark}]})))))

(defn timed
  "One operation as a record: when, how long, and its error or nil. A client whose answer was cut may
  hang past its own timeout, so it is given up after 75 s."
  [kind id f]
  (let [at (now)
        error (deref (future (try (when-not (f) "wrong answer") (catch Throwable t (explain t))))
                     75000 "hangs past its own timeout")]
    {:kind kind :id id :at at :took (- (now) at) :error error}))

(def usual
  "What an application does: [threads kind pause-ms operation]."
  [[6 :read 40 read-once] [3 :slow 20 slow-once] [3 :write 60 write-once]])

(def demanding
  "The same with what a drain cuts most easily: answers that pause, and large bodies both ways."
  (concat usual [[2 :slow 20 paused-once] [1 :slow 700 read-large] [1 :write 900 write-large]]))

(defn start
  "Starts the load; returns a function that ends it and gives its records. Each thread is a loop of
  one operation and a short pause; the pauses keep two cores from being the thing that is tested."
  ([connection] (start connection usual))
  ([connection kinds]
   (let [running (atom true)
         records (atom [])
         looping (fn [kind pause f]
                   (future
                     (loop [i 0]
                       (when @running
                         (let [id (random-uuid)]
                           (swap! records conj (timed kind id #(f connection (if (= :write kind) id i)))))
                         (Thread/sleep pause)
                         (recur (inc i))))))
         threads (doall (for [[n kind pause f] kinds, _ (range n)] (looping kind pause f)))]
     (fn []
       (reset! running false)
       (run! deref threads)
       @records))))

(defn- marks
  "How often each mark stands in the database."
  [connection]
  (frequencies (map first (d/q {:query '[:find ?mark ?e :where [?e :load/mark ?mark]]
                                :args [(:db-after (d/transact connection {:tx-data []}))] :limit -1}))))

(defn excuse
  "Why a failed transaction may fail, nil where nothing excuses it. `lost` are the zones that were
  lost, from `since` on; who was sent later than `until` had been warned."
  [{:keys [transactions]} {:keys [lost since until]} {:keys [id at took]}]
  (let [zones (set (map :zone (get transactions id)))]
    (cond
      (nil? since) nil
      (not-every? lost zones) nil
      (< (+ at took) since) nil
      (<= at until) (if (seq zones) :in-flight :on-the-way)
      :else nil)))

(defn unsent?
  "Whether the client had closed the connection itself before it could send: the end of a connection at rest had
  arrived, and its pool gave it out all the same. It calls that a fault and does not try again, as behind any
  server that closes connections at rest: one that drains, and one in front of a zone that is lost."
  [{:keys [transactions]} {:keys [id error]}]
  (boolean (and (re-find #"^fault java\.nio\.channels\.\w*Clos\w*Exception" (str error))
                (empty? (get transactions id)))))

(defn judge-unsent
  "Reports on what the client did not send, and returns the other records. Each of `rounds` closes some
  hundred connections at rest and brings others back; one or two of them meet a request, in a single round
  once in a while one more."
  [title seen records rounds]
  (let [{unsent true others false} (group-by #(unsent? seen %) records)]
    (report (str title ": hardly a request on a connection that the client had closed") (<= (count unsent) (inc (* 2 rounds)))
            (str (count unsent) " of " (count records) " not sent by the client " (frequencies (map :kind unsent))))
    others))

(defn judge
  "Reports on the records of one fault. `drained?`: no zone was lost, but connections were closed at
  rest, so a transaction that crossed that close and reached no zone is counted apart. `rounds`: so many
  drains."
  [title connection records {:keys [drained? rounds] :or {rounds 1} :as fault}]
  (let [seen (journal)
        {:keys [read slow write]} (group-by :kind (judge-unsent title seen records rounds))
        failed (filter :error write)
        excused (group-by #(excuse seen fault %) failed)
        crossed (when drained? (filter #(empty? (get-in seen [:transactions (:id %)])) failed))
        unexcused (remove (set crossed) (get excused nil))
        in-database (marks connection)
        slowest #(str ", slowest " (reduce max 0 (map :took %)) " ms")]
    (doseq [[what some-reads] [["reads" read] ["queries of 3 s" slow]]]
      (let [bad (filter :error some-reads)]
        (report (str title ": " what) (and (seq some-reads) (empty? bad))
                (str (count some-reads) " done, " (count bad) " failed" (slowest some-reads)
                     (when (seq bad) (str ": " (pr-str (frequencies (map :error bad)))))))))
    (report (str title ": transactions") (and (seq write) (empty? unexcused))
            (str (count write) " sent, " (count failed) " failed"
                 (when (seq failed)
                   (str " (" (count (:in-flight excused)) " in flight on the lost zone, "
                        (count (:on-the-way excused)) " on the way to it, "
                        (count crossed) " crossed a close, "
                        (count unexcused) " without excuse: "
                        (pr-str (frequencies (map :error failed))) ")"))
                 (slowest write)))
    (report (str title ": nothing lost, nothing applied twice")
            (and (every? #(= 1 (get in-database (:id %))) (remove :error write))
                 (every? #(>= 1 (get in-database (:id %) 0)) write)
                 (every? #(= 1 %) (vals (:applied seen)))
                 (every? #(= 1 (count %)) (vals (:transactions seen))))
            (str (count (filter #(get in-database (:id %)) write)) " of " (count write) " in the database once, "
                 (count (filter #(get in-database (:id %)) failed)) " of them failed for the application"))))

(ns proof.basics
  "What an application does with its client: every operation once, with the results compared."
  (:require [clojure.string :as str]
            [datomic.client.api :as d]
            [proof.checks :refer [check options now explain make-database]])
  (:import [java.util.concurrent Executors Callable]))

(def schema
  (for [[ident type] {:item/id :db.type/long, :item/name :db.type/string, :item/text :db.type/string,
                      :load/mark :db.type/uuid, :load/page :db.type/long, :load/text :db.type/string}]
    (cond-> {:db/ident ident :db/valueType type :db/cardinality :db.cardinality/one}
      (#{:item/id :load/page} ident) (assoc :db/unique :db.unique/identity))))

(def items 2500)

(defn client
  "A new client with connections of its own: the library keeps one pool per configuration, so every
  configuration here differs in a key that it ignores."
  [& [more]]
  (d/client
   (merge {:proof/number (rand)}
          (if (= "pro" (:client @options))
            {:server-type :peer-server :endpoint (:endpoint @options) :access-key "proof" :secret "proof-secret"
             :validate-hostnames false :trust-certs [(slurp (:certificate @options))]}
            {:server-type :cloud :region "us-east-1" :system "proof-system" :endpoint (:endpoint @options)})
          (:map @options)
          more)))

(defn connect [] (d/connect (client) {:db-name (:db @options)}))

(defn- catalog
  "Only client-cloud creates databases; the peer server is given its databases at its start."
  [c db-name]
  (if (= "pro" (:client @options))
    (make-database db-name)
    (check "create-database" [(true? (d/create-database c {:db-name db-name})) db-name]))
  (when (= "cloud" (:client @options))
    (check "create and delete another"
      (d/create-database c {:db-name (str db-name "-2")})
      [(true? (d/delete-database c {:db-name (str db-name "-2")})) "true"]))
  (check "list-databases"
    (let [names (d/list-databases c {})] [(some #{db-name} names) names]))
  (when (= "pro" (:client @options))
    (check "the name in the certificate is checked"
      (let [names (d/list-databases (client {:validate-hostnames true}) {})] [(some #{db-name} names) names])))
  (check "connect to a database that is not there is refused as that"
    (try (d/connect c {:db-name "no-such-database"}) [false "connected"]
         (catch Exception e
           [(contains? #{:cognitect.anomalies/not-found :cognitect.anomalies/fault}
                       (:cognitect.anomalies/category (ex-data e)))
            (explain e)]))))

(defn- reads [connection]
  (let [db (d/db connection)]
    (check "q" (let [n (ffirst (d/q '[:find (count ?e) :where [?e :item/id]] db))] [(= items n) n]))
    (check "q in chunks"
      (let [rows (d/q {:query '[:find ?id ?name :where [?e :item/id ?id] [?e :item/name ?name]]
                       :args [db] :chunk 100 :limit -1})]
        [(and (= (range items) (sort (map first rows)))
              (every? (fn [[id name]] (= name (str "name " id))) rows))
         (str (count rows) " rows by 100")]))
    (check "q with offset and limit"
      (let [n (count (d/q {:query '[:find ?e :where [?e :item/id]] :args [db] :offset 2000 :limit 100}))]
        [(= 100 n) n]))
    (check "pull"
      (let [found (d/pull db [:item/name] [:item/id 7])] [(= {:item/name "name 7"} found) found]))
    (check "index-pull"
      (let [n (count (d/index-pull db {:index :avet :selector [:item/name] :start [:item/id] :limit -1}))]
        [(= items n) n]))
    (check "datoms, several chunks"
      (let [n (count (seq (d/datoms db {:index :aevt :components [:item/name] :limit -1})))] [(= items n) n]))
    (check "index-range"
      (let [found (mapv :v (d/index-range db {:attrid :item/id :start 10 :end 13}))] [(= [10 11 12] found) found]))
    (check "db-stats"
      (let [n (get-in (d/db-stats db) [:attrs :item/id :count])] [(= items n) n]))))

(defn- time-travel [connection]
  (let [before (d/db connection)
        {:keys [db-after]} (d/transact connection {:tx-data [[:db/add [:item/id 7] :item/name "renamed"]]})
        name-in #(:item/name (d/pull % [:item/name] [:item/id 7]))]
    (check "db-after" [(= "renamed" (name-in db-after)) (name-in db-after)])
    (check "as-of" (let [was (name-in (d/as-of db-after (:t before)))] [(= "name 7" was) was]))
    (check "since"
      (let [changed (d/q '[:find ?v :where [_ :item/name ?v]] (d/since db-after (:t before)))]
        [(= [["renamed"]] changed) changed]))
    (check "history"
      (let [all (d/q '[:find ?v ?added :in $ ?id :where [?e :item/id ?id] [?e :item/name ?v _ ?added]]
                     (d/history db-after) 7)]
        [(= #{["name 7" true] ["name 7" false] ["renamed" true]} (set all)) all]))
    (check "with"
      (let [speculative (:db-after (d/with (d/with-db connection)
                                           {:tx-data [[:db/add [:item/id 7] :item/name "perhaps"]]}))]
        [(= ["perhaps" "renamed"] [(name-in speculative) (name-in (d/db connection))])
         (str (name-in speculative) ", in truth " (name-in (d/db connection)))]))
    (check "tx-range"
      (let [found (vec (d/tx-range connection {:start (:t db-after) :end (inc (:t db-after))}))]
        [(and (= 1 (count found)) (some #(= "renamed" (:v %)) (:data (first found)))) (count found)]))
    (check "a bad transaction is refused as that"
      (try (d/transact connection {:tx-data [[:db/add "x" :no/such 1]]}) [false "accepted"]
           (catch Exception e
             [(= :cognitect.anomalies/incorrect (:cognitect.anomalies/category (ex-data e))) (explain e)])))))

(def texts
  "1.2 MB of text. Datomic's strings end at 4096 characters, so the size comes from many of them."
  (for [i (range 300)] (str i "-" (str/join (repeat 4080 (char (+ 97 (mod i 26))))))))

(defn- large-bodies [connection]
  (let [size (reduce + (map count texts))]
    (check "a transaction of 1.2 MB"
      (let [{:keys [tempids]} (d/transact connection {:tx-data (for [t texts] {:db/id (subs t 0 4) :item/text t})})]
        [(= 300 (count tempids)) (str size " bytes up")]))
    (check "an answer of 1.2 MB"
      (let [found (map first (d/q '[:find ?t :where [_ :item/text ?t]] (d/db connection)))]
        [(= (set texts) (set found)) (str (reduce + (map count found)) " bytes down")]))))

(defn parallel
  "Runs `(f i)` for i below n at the same time; the results, exceptions among them."
  [n f]
  (let [pool (Executors/newFixedThreadPool n)]
    (try (mapv #(.get %)
               (.invokeAll pool (mapv (fn [i] (cast Callable #(try (f i) (catch Throwable t t)))) (range n))))
         (finally (.shutdown pool)))))

(defn- many-at-once [connection]
  (check "64 operations at the same time, five times"
    (let [start (now)
          one (fn [i] (case (mod i 4)
                        0 (= 2 (count (:tx-data (d/transact connection {:tx-data [{:load/mark (random-uuid)}]}))))
                        1 (= {:item/name "name 11"} (d/pull (d/db connection) [:item/name] [:item/id 11]))
                        2 (= [[items]] (d/q '[:find (count ?e) :where [?e :item/id]] (d/db connection)))
                        3 (= 10 (count (d/q {:query '[:find ?e :where [?e :item/id]] :args [(d/db connection)]
                                             :limit 10})))))
          results (vec (mapcat (fn [_] (Thread/sleep 100) (parallel 64 one)) (range 5)))
          bad (remove true? results)]
      [(empty? bad)
       (str (- (count results) (count bad)) " of " (count results) " in " (- (now) start) " ms "
            (some->> (filter #(instance? Throwable %) bad) first explain))])))

(defn run []
  (let [c (client)
        db-name (:db @options)
        _ (catalog c db-name)
        connection (d/connect c {:db-name db-name})]
    (check "connect" [true db-name])
    (check "transact schema and data"
      (d/transact connection {:tx-data schema})
      (let [{:keys [tempids]} (d/transact connection
                                          {:tx-data (for [i (range items)]
                                                      {:db/id (str i) :item/id i :item/name (str "name " i)})})]
        [(= items (count tempids)) (str (count tempids) " entities")]))
    (reads connection)
    (time-travel connection)
    (large-bodies connection)
    (many-at-once connection)))

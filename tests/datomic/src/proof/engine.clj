(ns proof.engine
  "The operations of the client protocol, answered from the in-memory engine com.datomic/local.

  A request is the decoded map that the client sends, with `:database-id` and the coordinates of its
  database value (`:t :as-of :since :history`, or `:next-token` for a value made by `with`)."
  (:require [clojure.string :as str]
            [cognitect.transit :as transit]
            [datomic.client.api :as d]))

(def ^:private client
  (delay (d/client {:server-type :datomic-local :storage-dir :mem :system "proof"})))

(def ^:private connections "database-id → connection" (atom {}))

(defn- connect
  "The database-id of a database that exists; an anomaly is thrown for others."
  [db-name]
  (let [connection (d/connect @client {:db-name db-name})
        database-id (str "id-of-" db-name)]
    (swap! connections assoc database-id connection)
    database-id))

(defn- connection [{:keys [database-id]}]
  (or (@connections database-id)
      (throw (ex-info "no such database" {:cognitect.anomalies/category :cognitect.anomalies/not-found}))))

;; What a later request may name by token: database values made by `with`, rests of chunked results.
;; Bounded, because a client never says that it has lost interest.
(def ^:private kept (atom {:order clojure.lang.PersistentQueue/EMPTY :by-token {}}))

(defn- keep-by-token [thing]
  (let [token (str (random-uuid))]
    (swap! kept (fn [{:keys [order by-token]}]
                  (let [[order by-token] (if (< 500 (count order))
                                           [(pop order) (dissoc by-token (peek order))]
                                           [order by-token])]
                    {:order (conj order token) :by-token (assoc by-token token thing)})))
    token))

(defn- by-token [token]
  (or (get-in @kept [:by-token token])
      (throw (ex-info "unknown token" {:cognitect.anomalies/category :cognitect.anomalies/not-found}))))

(defn- database
  "The database value that a request or a query argument stands for."
  [{:keys [t as-of since history next-token] :as coordinates}]
  (let [now (if next-token (by-token next-token) (d/db (connection coordinates)))
        ;; A connection that has not seen the newest `t` asks for the state that it knows.
        point (or as-of (when (and t (not next-token) (< t (:t now))) t))]
    (cond-> now
      point (d/as-of point)
      since (d/since since)
      history d/history)))

(defn- coordinates [db database-id]
  {:database-id database-id :t (:t db) :next-t (inc (:t db))})

(defn- wire-datom [{:keys [e a v tx added]}]
  (transit/tagged-value "datom" [e a v tx added]))

(defn- chunk-of
  "The first chunk of `all`; the client asks for the others with `next`, by token and offset."
  [all token offset chunk]
  (let [end (min (count all) (+ offset chunk))]
    (cond-> {:data (subvec all offset end)}
      (< end (count all)) (assoc :next-token token :next-offset end :chunk chunk))))

(defn- chunked [results {:keys [offset limit chunk] :or {offset 0 limit 1000 chunk 1000}}]
  (let [all (into [] (comp (drop offset) (if (neg? limit) identity (take limit))) results)]
    (chunk-of all (when (< chunk (count all)) (keep-by-token all)) 0 chunk)))

(defn- transaction [{:keys [db-before db-after tx-data tempids]} database-id token]
  {:db-before (coordinates db-before database-id)
   :db-after (cond-> (coordinates db-after database-id) token (assoc :next-token token))
   :tx-data (mapv wire-datom tx-data)
   :tempids tempids})

(defmulti ^:private run "One operation, by the last part of its name." (fn [op _] op))

(defmethod run "list-dbs" [_ _] {:result (vec (d/list-databases @client {}))})
(defmethod run "create-db" [_ {:keys [db-name]}]
  (d/create-database @client {:db-name db-name})
  (connect db-name)
  {:result true})
(defmethod run "delete-db" [_ {:keys [db-name]}]
  {:result (d/delete-database @client {:db-name db-name})})
(defmethod run "resolve-db" [_ {:keys [db-name]}]
  {:database-id (connect db-name)})
(defmethod run "status" [_ {:keys [database-id] :as request}]
  (coordinates (d/db (connection request)) database-id))

(defmethod run "transact" [_ {:keys [tx-data database-id] :as request}]
  (let [result (transaction (d/transact (connection request) {:tx-data tx-data}) database-id nil)]
    (assoc result :dbs [(:db-after result)])))
(defmethod run "with-db" [_ {:keys [database-id] :as request}]
  (let [db (d/with-db (connection request))]
    (assoc (coordinates db database-id) :next-token (keep-by-token db))))
(defmethod run "with" [_ {:keys [next-token tx-data database-id]}]
  (let [result (d/with (by-token next-token) {:tx-data tx-data})]
    (transaction result database-id (keep-by-token (:db-after result)))))

(defmethod run "q" [_ {:keys [query args] :as request}]
  ;; A plain argument of the query makes it slow; the engine itself sees only a map that it does not use.
  (when-let [pause (some :sleep-ms (filter map? args))] (Thread/sleep pause))
  (chunked (d/q {:query query
                 :args (mapv #(if (and (map? %) (:database-id %)) (database %) %) args)
                 :limit -1})
           request))
(defmethod run "next" [_ {:keys [next-token offset chunk]}]
  (chunk-of (by-token next-token) next-token offset (or chunk 1000)))
(defmethod run "pull" [_ {:keys [selector eid] :as request}]
  {:result (d/pull (database request) selector eid)})
(defmethod run "index-pull" [_ request]
  (chunked (d/index-pull (database request)
                         (merge (select-keys request [:index :selector :start :reverse]) {:limit -1}))
           request))
(defmethod run "datoms" [_ {:keys [index] :as request}]
  (let [components (map request ({:eavt [:e :a :v] :aevt [:a :e :v] :avet [:a :v :e] :vaet [:v :a :e]} index))]
    (chunked (map wire-datom (d/datoms (database request)
                                       {:index index :components (vec (take-while some? components)) :limit -1}))
             request)))
(defmethod run "index-range" [_ request]
  (chunked (map wire-datom (d/index-range (database request)
                                          (assoc (select-keys request [:attrid :start :end]) :limit -1)))
           request))
(defmethod run "tx-range" [_ request]
  (chunked (for [{:keys [t data]} (d/tx-range (connection request)
                                              (assoc (select-keys request [:start :end]) :limit -1))]
             {:t t :data (mapv wire-datom data)})
           request))
(defmethod run "db-stats" [_ request] {:result (d/db-stats (d/db (connection request)))})
(defmethod run :default [op _]
  (throw (ex-info (str "unknown operation " op)
                  {:cognitect.anomalies/category :cognitect.anomalies/unsupported})))

(defn answer
  "The answer to `request`; a refusal is an anomaly map, as the real server sends it."
  [x-nano-op request]
  (try
    (run (last (str/split x-nano-op #"/")) request)
    (catch Exception e
      (merge {:cognitect.anomalies/category :cognitect.anomalies/fault
              :cognitect.anomalies/message (str (ex-message e))}
             (select-keys (ex-data e) [:cognitect.anomalies/category :cognitect.anomalies/message])))))

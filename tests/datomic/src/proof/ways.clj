(ns proof.ways
  "The other ways in to the same zones: client maps as people have them, each with a proxy of its own.

  A way is `{:title TEXT :map CLIENT-MAP :zones #{ZONE…}}`: what its map says wins over the usual one,
  and its requests may reach no other zones. In place of `:map` stand `:file` and `:path`, the keys that lead to the map
  in a bigger file, whose tagged literals are left as they are. With `:loses?` the zone that serves dies under load and comes back."
  (:require [clojure.edn :as edn]
            [clojure.set :as set]
            [proof.basics :as basics]
            [proof.checks :refer [report options journal switch]]
            [proof.load :as load]))

(defn- served
  "Zone → how many requests it got since `before`; those that got one."
  [before]
  (into {} (for [[zone n] (:requests (journal)), :let [more (- n (get before zone 0))], :when (pos? more)]
             [zone more])))

(defn- lose
  "Loses the zone that serves most; what may fail is what was under way in it."
  []
  (let [connection (basics/connect)
        before (:requests (journal))
        finish (load/start connection)
        _ (Thread/sleep 2000)
        zone (key (apply max-key val (served before)))
        lost-at (switch :refuse zone)
        _ (Thread/sleep 4000)
        _ (switch :ok zone)
        records (finish)]
    (load/judge "a zone lost" connection records {:lost #{zone} :since lost-at :until (+ lost-at 500)})))

(defn- client-map [{:keys [map file path]}]
  (or map (get-in (edn/read-string {:default tagged-literal} (slurp file)) path)))

(defn- one-way [{:keys [title zones loses?] :as way} number]
  (swap! options merge {:title title :map (client-map way) :db (str "way-" number)})
  (let [before (:requests (journal))]
    (basics/run)
    (when loses? (lose))
    (let [seen (served before)]
      (report "no other zone was asked" (and (seq seen) (set/subset? (set (keys seen)) zones)) (str seen " of " zones)))))

(defn run
  "`:ways` of the options names a file with a vector of ways."
  []
  (let [before @options]
    (doseq [[number way] (map-indexed vector (edn/read-string (slurp (:ways @options))))]
      (one-way way number)
      (reset! options before))))

(ns proof.driver
  "The application's side. Arguments are KEY=VALUE:
    client=cloud|pro  endpoint=URL|HOST:PORT  db=NAME  control=URL  certificate=PEM (pro)
    scenarios=basics[,SCENARIO…]
  The other scenarios need a proxy between client and zones, and the database that `basics` has made:
    faults, errors: admin=HOST:PORT  bin=PATH
    ways: ways=FILE
    flips: admin=HOST:PORT  transactions=N  flips=N
    drains: see proof.drains"
  (:require [clojure.string :as str]
            [proof.basics :as basics]
            [proof.checks :as checks]
            [proof.drains :as drains]
            [proof.faults :as faults]
            [proof.flips :as flips]
            [proof.ways :as ways]))

(defn- refused-signatures []
  (let [{:keys [refused requests]} (checks/journal)]
    (checks/report "every signature was right" (empty? refused) (str requests " " (vec (take 3 refused))))))

(defn -main [& arguments]
  (reset! checks/options
          (into {} (map #(let [[k v] (str/split % #"=" 2)] [(keyword k) v])) arguments))
  (let [{:keys [client scenarios]} @checks/options]
    (try
      (doseq [scenario (str/split scenarios #",")]
        (case scenario
          "basics" (basics/run)
          "faults" (faults/run client)
          "errors" (faults/errors)
          "ways" (ways/run)
          "flips" (flips/run)
          "drains" (drains/run)))
      (refused-signatures)
      (catch Throwable t
        (.printStackTrace t)
        (checks/report "the run itself" false (checks/explain t))))
    ;; The clients' threads would keep the JVM alive.
    (System/exit (checks/finish))))
